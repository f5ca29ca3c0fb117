package vxlan

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"

	"github.com/podnet/podnet/rtnl"
)

// tableDiff is how one table gets from what is there to what is wanted: deletions wait until everything new is written.
type tableDiff struct {
	write, del rtnl.Plan
}

// diffFDB plans where frames to each peer's VTEP go; no two peers have one MAC. The kernel's key is MAC and destination together, though
// replacing an entry changes the destination of the MAC. The device is ours alone: every entry nobody wants goes.
func diffFDB(device string, want []Peer, have []rtnl.FDB) (d tableDiff) {
	index := make(map[rtnl.MAC]int, len(want))
	for i, p := range want {
		index[p.MAC] = i
	}
	type found struct {
		exact bool
		count int
	}
	there := make([]found, len(want))
	for _, h := range have {
		if i, ok := index[h.MAC]; ok {
			there[i].count++
			there[i].exact = there[i].exact || h.Dst == want[i].Addr
		}
	}
	for i, p := range want {
		if there[i].exact {
			continue
		}
		verb := rtnl.Add
		if there[i].count > 0 {
			verb = rtnl.Replace
		}
		d.write = append(d.write, rtnl.Change{Verb: verb, Object: rtnl.FDB{Link: device, MAC: p.MAC, Dst: p.Addr}})
	}
	var stale []rtnl.FDB
	for _, h := range have {
		if i, ok := index[h.MAC]; ok {
			// One that is replaced is gone already. Of several destinations nobody knows which one the kernel replaces: all are deleted, and
			// the one that is gone by then is forgiven.
			replaced := !there[i].exact && there[i].count == 1
			if h.Dst == want[i].Addr || replaced {
				continue
			}
		}
		stale = append(stale, h)
	}
	slices.SortFunc(stale, func(a, b rtnl.FDB) int { return cmp.Or(bytes.Compare(a.MAC[:], b.MAC[:]), a.Dst.Compare(b.Dst)) })
	d.del = deletions(stale)
	return d
}

// diffNeighs plans which MAC the gateway of each peer's route has. Entries that the kernel made by itself (not permanent) and that nobody
// wants are left to age. If the kernel has forgotten them by the time of the writes (the device's MAC changes before), all are written anew.
func diffNeighs(device string, want []Peer, have []rtnl.Neigh, forgotten bool) (d tableDiff) {
	index := make(map[netip.Addr]int, len(want))
	for i, p := range want {
		index[p.PodCIDR.Addr()] = i
	}
	wanted := func(p Peer) rtnl.Neigh {
		return rtnl.Neigh{Link: device, IP: p.PodCIDR.Addr(), MAC: p.MAC, Permanent: true}
	}
	type found struct{ any, exact bool }
	there := make([]found, len(want))
	var stale []rtnl.Neigh
	for _, h := range have {
		if i, ok := index[h.IP]; ok {
			there[i] = found{true, h == wanted(want[i])}
		} else if h.Permanent {
			stale = append(stale, h)
		}
	}
	for i, p := range want {
		switch {
		case !there[i].any:
			d.write = append(d.write, rtnl.Change{Verb: rtnl.Add, Object: wanted(p)})
		case !there[i].exact || forgotten:
			d.write = append(d.write, rtnl.Change{Verb: rtnl.Replace, Object: wanted(p)})
		}
	}
	slices.SortFunc(stale, func(a, b rtnl.Neigh) int { return a.IP.Compare(b.IP) })
	d.del = deletions(stale)
	return d
}

// deletions are sorted by their callers, so that a plan does not depend on the order of the kernel's hash tables.
func deletions[O rtnl.Object](stale []O) (p rtnl.Plan) {
	for _, o := range stale {
		p = append(p, rtnl.Change{Verb: rtnl.Delete, Object: o})
	}
	return p
}
