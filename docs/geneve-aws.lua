-- AWS Gateway Load Balancer's GENEVE options in Wireshark, which knows only their class:
--   wireshark -X lua_script:docs/geneve-aws.lua gwlb-fw1.pcapng
-- Fields to filter by and to show as columns: gwlb.endpoint, gwlb.attachment, gwlb.cookie.
-- Layout: AWS, "Gateway Load Balancer" guide; aws-samples/aws-gateway-load-balancer-tunnel-handler.

local gwlb = Proto("gwlb", "AWS Gateway Load Balancer")
gwlb.fields.endpoint = ProtoField.string("gwlb.endpoint", "VPC endpoint")
gwlb.fields.attachment = ProtoField.uint64("gwlb.attachment", "Attachment", base.HEX)
gwlb.fields.cookie = ProtoField.uint32("gwlb.cookie", "Flow cookie", base.HEX)

local classes, types = Field.new("geneve.option.class"), Field.new("geneve.option.type")
local values = Field.new("geneve.option.unknown.data")

function gwlb.dissector(_, _, tree)
  local class, kind = { classes() }, { types() }
  local subtree
  for number, value in ipairs({ values() }) do
    if class[number].value == 0x0108 then
      subtree = subtree or tree:add(gwlb)
      local option, range = kind[number].value % 128, value.range
      if option == 1 then
        subtree:add(gwlb.fields.endpoint, range, "vpce-0" .. tostring(range:bytes()):lower())
      elseif option == 2 then
        subtree:add(gwlb.fields.attachment, range)
      elseif option == 3 then
        subtree:add(gwlb.fields.cookie, range)
      end
    end
  end
end

register_postdissector(gwlb, true)
