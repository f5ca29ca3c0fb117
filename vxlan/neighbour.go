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

// diffFDB plans where frames to each peer's VTEP go. The kernel's key is MAC and destination together, though replacing an entry changes
// the destination of the MAC. The device is ours alone: every entry nobody wants goes.
func diffFDB(device string, want []Peer, have []rtnl.FDB) (d tableDiff) {
	there := make(map[rtnl.FDB]bool, len(have))
	count := make(map[rtnl.MAC]int, len(have))
	for _, h := range have {
		there[h] = false // until someone wants it
		count[h.MAC]++
	}
	replaced := map[rtnl.MAC]bool{}
	for _, p := range want {
		w := rtnl.FDB{Link: device, MAC: p.MAC, Dst: p.Addr}
		if _, ok := there[w]; ok {
			there[w] = true
			continue
		}
		verb := rtnl.Add
		if count[p.MAC] > 0 {
			verb = rtnl.Replace
			replaced[p.MAC] = true
		}
		d.write = append(d.write, rtnl.Change{Verb: verb, Object: w})
	}
	var stale []rtnl.FDB
	for _, h := range have {
		// With several destinations nobody knows which one the kernel replaces. All are deleted; one that is gone by then is forgiven.
		if there[h] || replaced[h.MAC] && count[h.MAC] == 1 {
			continue
		}
		stale = append(stale, h)
	}
	slices.SortFunc(stale, func(a, b rtnl.FDB) int { return cmp.Or(bytes.Compare(a.MAC[:], b.MAC[:]), a.Dst.Compare(b.Dst)) })
	d.del = deletions(stale)
	return d
}

// diffNeighs plans which MAC the gateway of each peer's route has. Entries that the kernel made by itself (not permanent) and that nobody
// wants are left to age.
func diffNeighs(device string, want []Peer, have []rtnl.Neigh) (d tableDiff) {
	there := make(map[netip.Addr]rtnl.Neigh, len(have))
	for _, h := range have {
		there[h.IP] = h
	}
	for _, p := range want {
		w := rtnl.Neigh{Link: device, IP: p.PodCIDR.Addr(), MAC: p.MAC, Permanent: true}
		h, ok := there[w.IP]
		delete(there, w.IP)
		switch {
		case !ok:
			d.write = append(d.write, rtnl.Change{Verb: rtnl.Add, Object: w})
		case h != w:
			d.write = append(d.write, rtnl.Change{Verb: rtnl.Replace, Object: w})
		}
	}
	var stale []rtnl.Neigh
	for _, h := range have {
		if _, unwanted := there[h.IP]; unwanted && h.Permanent {
			stale = append(stale, h)
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
