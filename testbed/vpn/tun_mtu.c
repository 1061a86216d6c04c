/* The MTU of strongSwan's userspace ESP.
 *
 * Its plugin kernel-libipsec gives its TUN device an MTU of 1,400 bytes and reads no more of a packet; no setting changes
 * that. Loaded before libstrongswan (LD_PRELOAD), this makes the device of whatever asks for another MTU have MTU bytes.
 * The layout is the beginning of struct tun_device_t (libstrongswan/networking/tun_device.h). */
#include <stdbool.h>

typedef struct tun_device {
	void *read_packet, *write_packet, *set_address, *get_address, *up;
	bool (*set_mtu)(struct tun_device *, int);
} tun_device;

extern void *dlsym(void *, const char *);

static bool (*real_set_mtu)(tun_device *, int);

static bool set_mtu(tun_device *device, int mtu)
{
	(void)mtu;
	return real_set_mtu(device, MTU);
}

tun_device *tun_device_create(const char *name)
{
	tun_device *(*create)(const char *) = dlsym((void *)-1L /* RTLD_NEXT */, "tun_device_create");
	tun_device *device = create(name);

	if (device) {
		real_set_mtu = device->set_mtu;
		device->set_mtu = set_mtu;
	}
	return device;
}
