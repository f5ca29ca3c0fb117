package kubenode

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

// wipedHold is how long a node is used as it was after somebody wiped its annotations: its agent publishes them again.
const wipedHold = time.Minute

// entry is what is known of one node.
type entry struct {
	ranked    // node without Name: it cannot be used (yet)
	annotated bool
	problem   string
	// The annotations are gone: next is used from then on.
	next  *node.Node
	until time.Time
}

func (e *entry) usable() bool { return e.node.Name != "" }

// equal reports whether the agent has nothing to do about the difference. Annotations that say what was known without them are none: when 5,000 agents
// start, each publishes, and would have all others look at their kernels (package sim).
func (s *store) equal(e, o *entry) bool {
	return e.uid == o.uid && e.created == o.created && s.convert.same(e.node, o.node) && e.problem == o.problem &&
		(e.next == nil) == (o.next == nil) && e.until.Equal(o.until)
}

// store holds what is known of all nodes. It may be used by several goroutines.
type store struct {
	mu      sync.Mutex
	convert converter
	own     string // name of this node
	entries map[string]*entry
	ownNode *kubeapi.Node // as the API server has it; nil: it is not there
	ownMACs *[2]rtnl.MAC  // those of this node's VTEPs, from the first look on; zero: derived

	synced   bool   // from the API server or the disk
	disk     string // not empty: what is known is from the disk, and since when
	fault    string // of the API server
	changed  bool   // since the snapshot was made
	version  int    // counts changes
	snapshot node.Snapshot
	conflict *conflict // of this node, if there is one
	counts   map[string]int
	claims   claims
	dirty    chan struct{} // something changed since the state was saved; room for one
}

func newStore(c converter, own string) *store {
	return &store{convert: c, own: own, entries: map[string]*entry{}, counts: map[string]int{}, dirty: make(chan struct{}, 1)}
}

// put takes over one node as the API server has it now, and reports whether that changes anything for the agent.
func (s *store) put(n kubeapi.Node, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putLocked(n, now)
}

func (s *store) putLocked(n kubeapi.Node, now time.Time) bool {
	old := s.entries[n.Name]
	e := &entry{ranked: ranked{uid: n.UID, created: n.Created}}
	if n.Name == s.own {
		s.putOwn(n, e)
	} else {
		s.putPeer(n, old, e, now)
	}
	s.entries[n.Name] = e
	if old != nil && s.equal(old, e) {
		return false
	}
	s.touch()
	return true
}

func (s *store) touch() {
	s.changed = true
	s.version++
	s.again()
}

// again has the state saved.
func (s *store) again() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

func (s *store) putOwn(n kubeapi.Node, e *entry) {
	s.ownNode = &n
	out, said, err := s.convert.own(n)
	if err != nil {
		e.problem = fmt.Sprintf("this node: %s", oneLine(err))
	}
	// The MAC of a VTEP is what peers have in their tables: an annotation from before counts, one that somebody writes now does not.
	if s.ownMACs == nil {
		s.ownMACs = &[2]rtnl.MAC{out.VTEPMAC, out.VTEPMAC6}
	}
	out.VTEPMAC, out.VTEPMAC6 = s.ownMACs[0], s.ownMACs[1]
	e.node, e.annotated = out, said.Managed
}

func (s *store) putPeer(n kubeapi.Node, old, e *entry, now time.Time) {
	out, annotated, err := s.convert.peer(n)
	known := old != nil && old.uid == n.UID && old.usable()
	switch {
	case errors.Is(err, errNoPodCIDR):
	case err != nil && known: // the last good state is kept
		e.node, e.annotated = old.node, old.annotated
		e.problem = fmt.Sprintf("node %q: kept as it was: %s", n.Name, oneLine(err))
	case err != nil:
		e.problem = fmt.Sprintf("node %q: %s", n.Name, oneLine(err))
	case known && old.annotated && !annotated && !old.node.Equal(out):
		e.node, e.annotated = old.node, true
		e.next, e.until = &out, old.until
		if old.next == nil {
			e.until = now.Add(wipedHold)
		}
		e.problem = fmt.Sprintf("node %q: its annotations are gone: kept as it was for %v", n.Name, wipedHold)
	default:
		e.node, e.annotated = out, annotated
	}
}

// remove forgets a node, if it is still that one.
func (s *store) remove(n kubeapi.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[n.Name]
	if e == nil || n.UID != "" && e.uid != n.UID {
		return false
	}
	s.removeLocked(n.Name)
	return true
}

func (s *store) removeLocked(name string) {
	delete(s.entries, name)
	if name == s.own {
		s.ownNode = nil
	}
	s.touch()
}

// expire uses what annotations say no more, and returns when to come again.
func (s *store) expire(now time.Time) (changed bool, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		switch {
		case e.next == nil:
		case e.until.After(now):
			if next.IsZero() || e.until.Before(next) {
				next = e.until
			}
		default:
			e.node, e.annotated, e.problem = *e.next, false, ""
			e.next, e.until = nil, time.Time{}
			s.touch()
			changed = true
		}
	}
	return changed, next
}

// listing is a list that is under way: what it does not name is gone when it is over.
type listing struct {
	s      *store
	named  map[string]bool
	before int // usable peers
	now    time.Time
}

func (s *store) begin(now time.Time) *listing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &listing{s: s, named: make(map[string]bool, len(s.entries)), before: s.usablePeers(), now: now}
}

func (s *store) usablePeers() int {
	n := 0
	for name, e := range s.entries {
		if name != s.own && e.usable() {
			n++
		}
	}
	return n
}

func (l *listing) add(n kubeapi.Node) {
	l.named[n.Name] = true
	l.s.put(n, l.now)
}

// end makes the list count, and reports whether more than half of the peers are gone by it.
func (l *listing) end() (shrunk bool) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.entries {
		if !l.named[name] {
			s.removeLocked(name)
		}
	}
	if !s.synced || s.disk != "" || s.fault != "" {
		s.touch()
	}
	s.synced, s.disk, s.fault = true, "", ""
	return l.before >= 4 && 2*s.usablePeers() < l.before
}

// setFault says what keeps the API server from telling more; "" = nothing. It reports whether that is news.
func (s *store) setFault(fault string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == fault {
		return false
	}
	s.fault = fault
	s.touch()
	return true
}

// restore takes over what was saved.
func (s *store) restore(saved []ranked, macs [2]rtnl.MAC, note string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.synced {
		return
	}
	for _, r := range saved {
		if s.entries[r.node.Name] != nil { // of a list that is under way, so newer
			continue
		}
		s.entries[r.node.Name] = &entry{ranked: r, annotated: true}
		if r.node.Name == s.own && s.ownMACs == nil {
			s.ownMACs = &macs
		}
	}
	s.synced, s.disk = true, note
	s.touch()
}

// copies returns the usable nodes.
func (s *store) copies() (all []ranked, version int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all = make([]ranked, 0, len(s.entries))
	for _, e := range s.entries {
		if e.usable() {
			all = append(all, e.ranked)
		}
	}
	return all, s.version
}

// take returns the snapshot.
func (s *store) take() node.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.changed {
		return s.snapshot
	}
	s.changed = false
	var problems []string
	if s.disk != "" {
		problems = append(problems, s.disk)
	}
	if s.fault != "" {
		problems = append(problems, s.fault)
	}
	clear(s.counts)
	all := make([]*ranked, 0, len(s.entries))
	for _, e := range s.entries {
		if e.problem != "" {
			problems = append(problems, e.problem)
		}
		switch {
		case e.usable():
			all = append(all, &e.ranked)
		case e.problem != "":
			s.counts[stateRefused]++
		default:
			s.counts[stateNoPodCIDR]++
		}
	}
	nodes, conflicts := s.claims.settle(all, s.own)
	s.counts[stateUsed], s.counts[stateConflict] = len(nodes), 0
	s.conflict = nil
	for _, c := range conflicts {
		problems = append(problems, c.String())
		if c.loser == s.own || c.winner == s.own && s.conflict == nil {
			s.conflict = &c
		}
		s.counts[stateConflict]++
	}
	slices.Sort(problems)
	s.snapshot = node.Snapshot{Synced: s.synced, Nodes: nodes, Problems: problems}
	return s.snapshot
}

// The states of nodes that are counted.
const (
	stateUsed      = "used"
	stateNoPodCIDR = "no_podcidr"
	stateRefused   = "refused"
	stateConflict  = "conflict"
)

// count returns how many nodes are in each state.
func (s *store) count() map[string]int {
	s.take()
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// ownState is what the publisher needs to know.
type ownState struct {
	node     *kubeapi.Node // nil: not there
	conflict *conflict
	fault    string
}

func (s *store) ownState() ownState {
	s.take()
	s.mu.Lock()
	defer s.mu.Unlock()
	return ownState{s.ownNode, s.conflict, s.fault}
}

// known reports whether there is anything to work with.
func (s *store) known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced
}

// fromAPI reports whether the API server has told all nodes.
func (s *store) fromAPI() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced && s.disk == ""
}
