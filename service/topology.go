package service

// topology is how hints narrow the cluster-wide endpoints.
type topology uint8

const (
	anywhere topology = iota
	sameNode          // trafficDistribution PreferSameNode (KEP-3015)
	sameZone          // PreferSameZone, PreferClose, topology-aware routing (KEP-2433)
)

// hinted returns the topology that the hints of the ready endpoints ask for. One without a hint, or none for this node or zone, turns that kind of hint off: hints that are
// half there, as in a roll-out, would overload the few that have one.
func hinted(endpoints []target, node Node) topology {
	ready, forNode, forZone := false, false, false
	allNodes, allZones := true, true
	for i := range endpoints {
		e := &endpoints[i]
		if e.NotReady {
			continue
		}
		ready = true
		allNodes = allNodes && e.ForNodes != ""
		allZones = allZones && e.ForZones != ""
		forNode = forNode || allNodes && e.ForNodes.Has(node.Name)
		forZone = forZone || allZones && e.ForZones.Has(node.Zone)
	}
	switch {
	case !ready:
		return anywhere
	case allNodes && forNode:
		return sameNode
	case allZones && forZone:
		return sameZone
	}
	return anywhere
}

// available reports whether an endpoint is for this node.
func (t topology) available(e *target, node Node) bool {
	switch t {
	case sameNode:
		return e.ForNodes.Has(node.Name)
	case sameZone:
		return e.ForZones.Has(node.Zone)
	}
	return true
}

// categories are the endpoints that the two traffic policies use.
type categories struct {
	cluster, local []Backend
	any            bool // somebody serves somewhere, though perhaps not for this node
}

// categorize chooses the endpoints: the ready ones, or if there are none those that still serve while they terminate, independently for both policies.
func categorize(endpoints []target, node Node, usesCluster, usesLocal bool) categories {
	var c categories
	if usesCluster {
		t := hinted(endpoints, node)
		c.cluster = choose(endpoints, func(e *target) bool { return !e.NotReady && t.available(e, node) })
		if len(c.cluster) == 0 {
			c.cluster = choose(endpoints, func(e *target) bool { return e.fallback() })
		}
		c.any = len(c.cluster) > 0
	}
	if usesLocal {
		c.local = choose(endpoints, func(e *target) bool { return e.local && !e.NotReady })
		if len(c.local) == 0 {
			c.local = choose(endpoints, func(e *target) bool { return e.local && e.NotReady && e.fallback() })
		}
		for i := range endpoints {
			c.any = c.any || !endpoints[i].NotReady || endpoints[i].fallback()
		}
	}
	return c
}

func choose(endpoints []target, want func(*target) bool) []Backend {
	n := 0
	for i := range endpoints {
		if want(&endpoints[i]) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	chosen := make([]Backend, 0, n)
	for i := range endpoints {
		if want(&endpoints[i]) {
			chosen = append(chosen, Backend{Addr: endpoints[i].addr, Local: endpoints[i].local})
		}
	}
	return chosen
}
