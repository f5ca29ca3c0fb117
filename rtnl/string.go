package rtnl

import (
	"strconv"
	"strings"
)

// words joins non-empty words with spaces.
type words []string

func (w *words) add(s ...string) { *w = append(*w, s...) }

func (w *words) opt(key, value string) {
	if value != "" {
		*w = append(*w, key, value)
	}
}

func (w *words) num(key string, n int) {
	if n != 0 {
		*w = append(*w, key, strconv.Itoa(n))
	}
}

func (w words) String() string { return strings.Join(w, " ") }

func (s Switch) String() string {
	switch s {
	case On:
		return "on"
	case Off:
		return "off"
	}
	return ""
}

// String returns "link NAME ...".
func (l Link) String() string {
	w := words{"link", l.Name}
	switch l.Up {
	case On:
		w.add("up")
	case Off:
		w.add("down")
	}
	w.num("mtu", l.MTU)
	w.opt("address", l.MAC.String())
	if l.Alias != "" {
		w.add("alias", strconv.Quote(l.Alias))
	}
	w.opt("master", l.Master)
	w.opt("hairpin", l.Hairpin.String())
	w.opt("tx-checksum", l.TxChecksum.String())
	w.opt("type", string(l.Kind))
	switch l.Kind {
	case KindVeth:
		w.opt("peer", l.Veth.Peer)
		w.opt("address", l.Veth.PeerMAC.String())
		w.opt("netns", l.Veth.PeerNetns)
	case KindVXLAN:
		v := l.VXLAN
		w.add("id", strconv.Itoa(int(v.VNI)))
		if v.Local.IsValid() {
			w.add("local", v.Local.String())
		}
		w.opt("dev", v.Underlay)
		w.num("dstport", int(v.Port))
		switch v.Learning {
		case On:
			w.add("learning")
		case Off:
			w.add("nolearning")
		}
	}
	return w.String()
}

// String returns "addr PREFIX dev LINK ...".
func (a Addr) String() string {
	w := words{"addr", a.Prefix.String(), "dev", a.Link}
	for _, f := range []struct {
		set  bool
		word string
	}{{a.NoDAD, "nodad"}, {a.NoPrefixRoute, "noprefixroute"}, {a.Tentative, "tentative"}, {a.DADFailed, "dadfailed"}} {
		if f.set {
			w.add(f.word)
		}
	}
	return w.String()
}

// String returns "route DST ...".
func (r Route) String() string {
	w := words{"route"}
	switch r.Type {
	case Blackhole:
		w.add("blackhole")
	case Unreachable:
		w.add("unreachable")
	case Local:
		w.add("local")
	}
	w.add(r.Dst.String())
	if r.Nexthop != 0 {
		w.add("nhid", strconv.FormatUint(uint64(r.Nexthop), 10))
	}
	if r.Gateway.IsValid() {
		w.add("via", r.Gateway.String())
	}
	w.opt("dev", r.Link)
	if r.Table != 0 && r.Table != TableMain {
		w.add("table", strconv.FormatUint(uint64(r.Table), 10))
	}
	if r.Protocol != 0 {
		w.add("proto", r.Protocol.String())
	}
	if r.Dst.Addr().Is4() && r.Scope != ScopeUniverse && r.Scope != ScopeAuto {
		w.add("scope", r.Scope.String())
	}
	if r.Src.IsValid() {
		w.add("src", r.Src.String())
	}
	w.num("metric", int(r.Priority))
	w.num("mtu", r.MTU)
	w.num("advmss", r.AdvMSS)
	if r.Onlink {
		w.add("onlink")
	}
	return w.String()
}

// String returns the iproute2 name or number.
func (s Scope) String() string {
	switch s {
	case ScopeUniverse:
		return "global"
	case ScopeLink:
		return "link"
	case ScopeHost:
		return "host"
	}
	return strconv.Itoa(int(s))
}

// String returns the iproute2 name or number.
func (p Protocol) String() string {
	switch p {
	case ProtocolKernel:
		return "kernel"
	case ProtocolBoot:
		return "boot"
	case ProtocolStatic:
		return "static"
	}
	return strconv.Itoa(int(p))
}

// String returns "neigh IP ...".
func (n Neigh) String() string {
	w := words{"neigh", n.IP.String()}
	w.opt("lladdr", n.MAC.String())
	w.add("dev", n.Link)
	if n.Permanent {
		w.add("nud", "permanent")
	}
	return w.String()
}

// String returns "fdb MAC ...", as bridge(8) takes it.
func (f FDB) String() string {
	w := words{"fdb", f.MAC.String(), "dev", f.Link}
	if f.Dst.IsValid() {
		w.add("dst", f.Dst.String())
	}
	w.add("self", "permanent")
	return w.String()
}

// String returns "nexthop id ID ...".
func (n Nexthop) String() string {
	w := words{"nexthop", "id", strconv.FormatUint(uint64(n.ID), 10)}
	if n.Gateway.IsValid() {
		w.add("via", n.Gateway.String())
	}
	w.opt("dev", n.Link)
	if n.Protocol != 0 {
		w.add("proto", n.Protocol.String())
	}
	if n.Onlink {
		w.add("onlink")
	}
	return w.String()
}

// String returns "sysctl NAME=VALUE".
func (s Sysctl) String() string { return "sysctl " + s.Name + "=" + s.Value }
