package rtnltest

import (
	"net/netip"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

// prepare does what rtnl.Conn does before a change goes to the kernel: it refuses what has no message, then finds the devices that the
// change names. See checkChange in package rtnl.
func (n *FakeNetns) prepare(v rtnl.Verb, object rtnl.Object) *refusal {
	valid := func(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }
	ok := true
	var links []string
	switch o := object.(type) {
	case rtnl.Link:
		if r := checkLink(v, o); r != nil {
			return r
		}
		if v == rtnl.Delete {
			return nil
		}
		links = append(links, o.Master)
		if o.Kind == rtnl.KindVXLAN {
			links = append(links, o.VXLAN.Underlay)
		}
	case rtnl.Addr:
		ok = o.Prefix.IsValid() && valid(o.Prefix.Addr()) && o.Link != ""
		links = append(links, o.Link)
	case rtnl.Route:
		ok = o.Dst.IsValid() && valid(o.Dst.Addr()) && o.Type <= rtnl.Local
		links = append(links, o.Link)
	case rtnl.Neigh:
		ok = valid(o.IP) && o.Link != ""
		links = append(links, o.Link)
	case rtnl.FDB:
		ok = o.Link != ""
		links = append(links, o.Link)
	case rtnl.Nexthop:
		ok = o.ID != 0
		if v != rtnl.Delete {
			links = append(links, o.Link)
		}
	}
	if !ok {
		return refuse(syscall.EINVAL, "")
	}
	for _, link := range links {
		if link != "" && n.devices[link] == nil {
			return refuse(syscall.ENODEV, "device "+link)
		}
	}
	return nil
}

func checkLink(v rtnl.Verb, l rtnl.Link) *refusal {
	if r := checkName(l.Name); r != nil || v != rtnl.Add {
		return r
	}
	switch {
	case l.TxChecksum != rtnl.Unset && l.Kind != rtnl.KindVXLAN:
		return refuse(syscall.EOPNOTSUPP, "")
	case l.Kind == rtnl.KindVeth && l.Veth.Peer == "":
		return unmodelled("a veth peer named by the kernel")
	case l.Kind == rtnl.KindVeth:
		return checkName(l.Veth.Peer)
	case l.Kind != rtnl.KindBridge && l.Kind != rtnl.KindVXLAN:
		return refuse(syscall.EOPNOTSUPP, "Unknown device type")
	}
	return nil
}

// checkName refuses what is no device name (dev_valid_name), and '%', for which the kernel would put a number.
func checkName(name string) *refusal {
	switch {
	case len(name) > 15:
		return refuse(syscall.ERANGE, "")
	case name == "" || name == "." || name == "..":
		return refuse(syscall.EINVAL, "")
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c == 0x7f || c == 0xa0 || c == '/' || c == ':' || c == '%' {
			return refuse(syscall.EINVAL, "")
		}
	}
	return nil
}
