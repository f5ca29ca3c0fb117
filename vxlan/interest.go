package vxlan

import "github.com/podnet/podnet/rtnl"

// Interested reports whether e may concern c, so that a loop need not look again at each pod's veth. What it misses (someone else's route
// to a pod range) the loop's next look finds. Our own writes are events as well: the look they cause finds nothing to do.
func (c Config) Interested(e rtnl.Event) bool {
	if e.Overflow {
		return true
	}
	ours := e.Link != "" && (e.Link == c.Underlay || c.withDefaults().hasDevice(e.Link))
	switch e.Object {
	case "link", "addr":
		// A deleted device may have no name any more.
		return ours || e.Link == "" && e.Deleted
	case "route":
		return ours || e.Protocol == rtnl.ProtocolVXLAN
	case "neigh":
		return ours && e.Link != c.Underlay
	}
	return false
}
