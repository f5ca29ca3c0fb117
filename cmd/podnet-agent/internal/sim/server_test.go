package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
)

// load is what was asked of the API servers, by all nodes.
type load struct {
	lists, watches, patches int // requests
	complaints              int // Events of agents
	events                  int // sent
	bytes                   int64
}

func (l load) minus(o load) load {
	return load{l.lists - o.lists, l.watches - o.watches, l.patches - o.patches, l.complaints - o.complaints, l.events - o.events, l.bytes - o.bytes}
}

func (l load) String() string {
	return fmt.Sprintf("%d requests (%d list pages, %d watches, %d patches), %d events, %.1f GB", l.requests(), l.lists, l.watches, l.patches, l.events, float64(l.bytes)/1e9)
}

// server is the API servers of a cluster: one state, one network.
type server struct {
	bandwidth float64 // bytes per second
	weight    int     // nodes that each agent stands for

	mu      sync.Mutex
	rng     *rand.Rand
	version int
	names   []string // sorted
	nodes   map[string]kubeapi.Node
	log     []entry       // everything since the beginning
	news    chan struct{} // closed when log grows
	free    time.Time     // when the network has sent all that it has to
	load    load
	watches int // under way
}

// entry is one change, on its way to the watches.
type entry struct {
	event   kubeapi.Event
	version int
	at      time.Time // when the network has it
}

func newServer(seed uint64, bandwidth float64, weight int, nodes []kubeapi.Node) *server {
	s := &server{bandwidth: bandwidth, weight: weight, rng: rand.New(rand.NewPCG(seed, 1)), version: 1000,
		nodes: make(map[string]kubeapi.Node, len(nodes)), news: make(chan struct{})}
	for _, n := range nodes {
		s.version++
		n.ResourceVersion = strconv.Itoa(s.version)
		s.nodes[n.Name] = n
		s.names = append(s.names, n.Name)
	}
	slices.Sort(s.names)
	return s
}

// requests is how many there were.
func (l load) requests() int { return l.lists + l.watches + l.patches + l.complaints }

// send has the network carry bytes, and returns when it has.
func (s *server) send(bytes int) time.Time {
	if now := time.Now(); s.free.Before(now) {
		s.free = now
	}
	s.load.bytes += int64(bytes)
	s.free = s.free.Add(time.Duration(float64(bytes) / s.bandwidth * float64(time.Second)))
	return s.free
}

func (s *server) latency() time.Duration {
	return minLatency + time.Duration(s.rng.Int64N(int64(maxLatency-minLatency)))
}

// publish makes an event of a change. Under mu.
func (s *server) publish(kind string, n kubeapi.Node) {
	s.version++
	n.ResourceVersion = strconv.Itoa(s.version)
	at, known := slices.BinarySearch(s.names, n.Name)
	switch {
	case kind == "DELETED":
		if known {
			s.names = slices.Delete(s.names, at, at+1)
		}
		delete(s.nodes, n.Name)
	default:
		if !known {
			s.names = slices.Insert(s.names, at, n.Name)
		}
		s.nodes[n.Name] = n
	}
	sent := s.send(s.watches * s.weight * nodeBytes)
	s.load.events += s.watches * s.weight
	s.log = append(s.log, entry{kubeapi.Event{Type: kind, Node: n}, s.version, sent})
	close(s.news)
	s.news = make(chan struct{})
}

// update changes one node as a client would.
func (s *server) update(name string, change func(*kubeapi.Node)) { s.put(name, false, change) }

func (s *server) put(name string, heartbeat bool, change func(*kubeapi.Node)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[name]
	if !ok {
		return
	}
	before := n
	change(&n)
	if !heartbeat && before.Network == n.Network && maps.Equal(before.Annotations, n.Annotations) && slices.Equal(before.Addresses, n.Addresses) {
		return // the API server writes nothing then
	}
	s.publish("MODIFIED", n)
}

func (s *server) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.nodes[name]; ok {
		s.publish("DELETED", n)
	}
}

// heartbeats has every kubelet report every five minutes, evenly spread, until ctx ends.
func (s *server) heartbeats(ctx context.Context) {
	for i := 0; ; i++ {
		s.mu.Lock()
		pause := heartbeatEvery / time.Duration(max(1, len(s.names)))
		name := s.names[i%len(s.names)]
		s.mu.Unlock()
		if !sleep(ctx, pause) {
			return
		}
		s.put(name, true, func(*kubeapi.Node) {})
	}
}

// drain waits until the network has sent all that it had to at some moment, and returns that moment.
func (s *server) drain() time.Time {
	for {
		s.mu.Lock()
		left, free := time.Until(s.free), s.free
		s.mu.Unlock()
		if left < time.Second {
			return free
		}
		time.Sleep(left)
	}
}

func (s *server) snapshot() load {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load
}

// client is the API server as one agent sees it.
type client struct {
	s *server
	a *agentRun
}

// ListNodes sends one page. What is listed is the state of now: only the versions count.
func (c *client) ListNodes(ctx context.Context, limit int, continued string, add func(kubeapi.Node)) (kubeapi.ListMeta, error) {
	s := c.s
	s.mu.Lock()
	from := 0
	if continued != "" {
		at, _ := slices.BinarySearch(s.names, continued)
		from = at
	}
	to := min(from+limit, len(s.names))
	page := make([]kubeapi.Node, 0, to-from)
	for _, name := range s.names[from:to] {
		page = append(page, s.nodes[name])
	}
	meta := kubeapi.ListMeta{ResourceVersion: strconv.Itoa(s.version)}
	if to < len(s.names) {
		meta.Continue = s.names[to]
	}
	if continued == "" {
		c.a.listed = meta.ResourceVersion // a list is of one state: what comes after its first page is for the watch
	}
	meta.ResourceVersion = c.a.listed
	s.load.lists += s.weight
	sent, latency := s.send(s.weight*len(page)*nodeListBytes), s.latency()
	s.mu.Unlock()
	if !sleep(ctx, time.Until(sent)+latency) {
		return meta, ctx.Err()
	}
	for _, n := range page {
		add(n)
	}
	return meta, nil
}

// PatchNodeStatus takes what the agent publishes; the nodes that it stands for do the same.
func (c *client) PatchNodeStatus(ctx context.Context, name string, patch any) (kubeapi.Node, error) {
	s := c.s
	s.mu.Lock()
	latency := s.latency()
	s.mu.Unlock()
	if !sleep(ctx, latency) {
		return kubeapi.Node{}, ctx.Err()
	}
	fields := patch.(map[string]any)
	annotations, network := map[string]any{}, kubeapi.Condition{}
	if m, ok := fields["metadata"].(map[string]any); ok {
		annotations, _ = m["annotations"].(map[string]any)
	}
	if m, ok := fields["status"].(map[string]any); ok {
		said := m["conditions"].([]any)[0].(map[string]any)
		network = kubeapi.Condition{Status: said["status"].(string), Reason: said["reason"].(string), Message: said["message"].(string)}
	}
	s.mu.Lock()
	s.load.patches += s.weight
	s.send(s.weight * nodeBytes)
	s.mu.Unlock()
	for i := range s.weight {
		s.update(nodeName(c.a.index+i), func(n *kubeapi.Node) {
			if network.Status != "" {
				n.Network = network
			}
			if len(annotations) > 0 && i > 0 {
				annotate(c.a.keys, n)
			}
			if len(annotations) == 0 || i > 0 {
				return
			}
			merged := maps.Clone(n.Annotations)
			if merged == nil {
				merged = map[string]string{}
			}
			for key, value := range annotations {
				if text, ok := value.(string); ok {
					merged[key] = text
				} else {
					delete(merged, key)
				}
			}
			n.Annotations = merged
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[name], nil
}

// CreateEvent and PatchEvent are not expected: nothing goes wrong here.
func (c *client) CreateEvent(context.Context, string, any) error        { return c.unexpected() }
func (c *client) PatchEvent(context.Context, string, string, any) error { return c.unexpected() }

func (c *client) unexpected() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.load.complaints++
	return nil
}

// WatchNodes sends everything since a version, and bookmarks.
func (c *client) WatchNodes(ctx context.Context, version string, timeout time.Duration, event func(kubeapi.Event)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s := c.s
	since, err := strconv.Atoi(version)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.watches++
	s.load.watches += s.weight
	latency := s.latency()
	at, _ := slices.BinarySearchFunc(s.log, since, func(e entry, v int) int { return e.version - v })
	for at < len(s.log) && s.log[at].version <= since {
		at++
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.watches--
		s.mu.Unlock()
	}()
	bookmark := time.NewTicker(bookmarkEvery)
	defer bookmark.Stop()
	for {
		s.mu.Lock()
		fresh, news, now := s.log[at:], s.news, s.version
		s.mu.Unlock()
		for _, e := range fresh {
			if wait := time.Until(e.at) + latency; wait > 0 && !sleep(ctx, wait) {
				return nil
			}
			event(e.event)
			at++
		}
		if len(fresh) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		case <-bookmark.C:
			s.mu.Lock()
			s.send(s.weight * bookmarkBytes)
			s.mu.Unlock()
			event(kubeapi.Event{Type: "BOOKMARK", Node: kubeapi.Node{ResourceVersion: strconv.Itoa(now)}})
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
