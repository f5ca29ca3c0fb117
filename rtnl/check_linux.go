package rtnl

import (
	"net/netip"
	"syscall"
)

// checkChange refuses what has no netlink message, and names that the kernel would take for something else. All other judgement is left to the
// kernel. It returns 0 if the change can be sent.
func checkChange(c Change) syscall.Errno {
	valid := func(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }
	ok := false
	switch o := c.Object.(type) {
	case Link:
		return checkLink(c.Verb, o)
	case Sysctl:
		if c.Verb != Set {
			return syscall.EOPNOTSUPP
		}
		return 0
	case Addr:
		if c.Verb == Replace {
			return syscall.EOPNOTSUPP
		}
		ok = o.Prefix.IsValid() && valid(o.Prefix.Addr()) && o.Link != ""
	case Route:
		ok = o.Dst.IsValid() && valid(o.Dst.Addr()) && o.Type <= Local
	case Neigh:
		ok = valid(o.IP) && o.Link != ""
	case FDB:
		ok = o.Link != ""
	case Nexthop:
		ok = o.ID != 0
	default:
		return syscall.EOPNOTSUPP
	}
	switch {
	case c.Verb != Add && c.Verb != Replace && c.Verb != Delete:
		return syscall.EOPNOTSUPP
	case !ok:
		return syscall.EINVAL
	}
	return 0
}

func checkLink(v Verb, l Link) syscall.Errno {
	if v != Add && v != Set && v != Delete {
		return syscall.EOPNOTSUPP
	}
	if errno := checkName(l.Name); errno != 0 {
		return errno
	}
	if v != Add {
		return 0
	}
	if l.TxChecksum != Unset && l.Kind != KindVXLAN {
		return syscall.EOPNOTSUPP
	}
	switch l.Kind {
	case KindVeth:
		if l.Veth.Peer != "" {
			return checkName(l.Veth.Peer)
		}
	case KindVXLAN, KindBridge:
	default:
		return syscall.EOPNOTSUPP
	}
	return 0
}

// checkName refuses what the kernel refuses as a device name (dev_valid_name in net/core/dev.c) with the same errno, and what it
// would change: in a new name it puts a number for "%d". Control characters would spoil every listing.
func checkName(name string) syscall.Errno {
	switch {
	case len(name) > 15:
		return syscall.ERANGE
	case name == "" || name == "." || name == "..":
		return syscall.EINVAL
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c == 0x7f || c == 0xa0 || c == '/' || c == ':' || c == '%' {
			return syscall.EINVAL
		}
	}
	return 0
}
