package kubenode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/rtnl"
)

// script is an API in the bubble of a synctest: what it answers is set by the test. HTTP is tested in package kubeapi.
type script struct {
	mu      sync.Mutex
	nodes   map[string]kubeapi.Node
	version uint64
	err     error // of lists and watches
	gone    bool  // the next watch is from too old a version
	short   bool  // watches end at once
	watches []chan kubeapi.Event
	lists   []time.Time
}

func newScript(nodes ...kubeapi.Node) *script {
	s := &script{nodes: map[string]kubeapi.Node{}, version: 100}
	for _, n := range nodes {
		s.nodes[n.Name] = n
	}
	return s
}

func (s *script) ListNodes(ctx context.Context, limit int, continued string, add func(kubeapi.Node)) (kubeapi.ListMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists = append(s.lists, time.Now())
	if s.err != nil {
		return kubeapi.ListMeta{}, s.err
	}
	for _, n := range s.nodes {
		add(n)
	}
	return kubeapi.ListMeta{ResourceVersion: fmt.Sprint(s.version)}, nil
}

func (s *script) WatchNodes(ctx context.Context, version string, timeout time.Duration, event func(kubeapi.Event)) error {
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return s.err
	}
	if s.gone {
		defer s.mu.Unlock()
		s.gone = false
		return &kubeapi.StatusError{Code: 410, Reason: "Expired"}
	}
	if s.short {
		defer s.mu.Unlock()
		event(kubeapi.Event{Type: kubeapi.Opened})
		return nil
	}
	events := make(chan kubeapi.Event)
	s.watches = append(s.watches, events)
	s.mu.Unlock()
	event(kubeapi.Event{Type: kubeapi.Opened})
	end := time.NewTimer(timeout)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("connection lost")
			}
			event(e)
		}
	}
}

// tell sends an event to the watch that is running.
func (s *script) tell(kind string, n kubeapi.Node) {
	s.mu.Lock()
	s.version++
	n.ResourceVersion = fmt.Sprint(s.version)
	if kind == "DELETED" {
		delete(s.nodes, n.Name)
	} else if kind != "BOOKMARK" {
		s.nodes[n.Name] = n
	}
	w := s.watches[len(s.watches)-1]
	s.mu.Unlock()
	w <- kubeapi.Event{Type: kind, Node: n}
	synctest.Wait()
}

func (s *script) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// asked returns when nodes were listed.
func (s *script) asked() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lists)
}

func (s *script) drop() {
	s.set(func() { close(s.watches[len(s.watches)-1]) })
	synctest.Wait()
}

func apiNode(i int) kubeapi.Node {
	return kubeapi.Node{Name: fmt.Sprintf("node-%d", i), UID: fmt.Sprintf("uid-%d", i), Created: int64(i), ResourceVersion: "50",
		PodCIDRs: []string{fmt.Sprintf("10.244.%d.0/24", i)}, Addresses: []kubeapi.Address{{Type: "InternalIP", Address: fmt.Sprintf("192.168.1.%d", i)}}, Annotations: map[string]string{}}
}

// running is a Source that runs in a bubble.
type running struct {
	*Source
	t        *testing.T
	api      *script
	notified *int
	stop     func()
}

func start(t *testing.T, api *script, state string) *running {
	r := &running{t: t, api: api, notified: new(int)}
	r.Source = New(api, Options{NodeName: "node-1", Keys: testKeys(), Net: dualStack("vxlan"), State: state})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	wg.Go(func() {
		_ = r.Run(ctx, func() {
			mu.Lock()
			*r.notified++
			mu.Unlock()
		})
	})
	r.stop = func() {
		cancel()
		wg.Wait()
	}
	synctest.Wait()
	return r
}

// want compares the names of the nodes and whether the problems hold something.
func (r *running) want(names string, problems ...string) {
	r.t.Helper()
	s := r.Snapshot()
	var have []string
	for _, n := range s.Nodes {
		have = append(have, strings.TrimPrefix(n.Name, "node-"))
	}
	if strings.Join(have, " ") != names {
		r.t.Errorf("nodes %v, want %s", have, names)
	}
	if len(s.Problems) != len(problems) {
		r.t.Errorf("problems %q, want %q", s.Problems, problems)
		return
	}
	for i, p := range problems {
		if !strings.Contains(s.Problems[i], p) {
			r.t.Errorf("problem %q, want %q", s.Problems[i], p)
		}
	}
}

func (r *running) relists(reason string) int {
	return int(testutil.ToFloat64(r.metrics.relists.WithLabelValues(reason)))
}

func TestSourceFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fresh := apiNode(3)
		fresh.PodCIDRs = nil
		r := start(t, newScript(apiNode(1), apiNode(2), fresh), "")
		defer r.stop()
		r.want("1 2") // one has no podCIDR yet: no word about that
		if got := r.store.count(); got[stateNoPodCIDR] != 1 || got[stateUsed] != 2 {
			t.Errorf("%v", got)
		}
		before := *r.notified
		r.api.tell("MODIFIED", apiNode(3))
		r.want("1 2 3")
		if *r.notified != before+1 {
			t.Errorf("%d notifications", *r.notified-before)
		}
		beat := apiNode(3) // a heartbeat changes nothing
		first := &r.Snapshot().Nodes[0]
		r.api.tell("MODIFIED", beat)
		r.api.tell("BOOKMARK", kubeapi.Node{})
		if *r.notified != before+1 || first != &r.Snapshot().Nodes[0] {
			t.Error("a heartbeat was passed on")
		}
		bad := apiNode(3)
		bad.Annotations[annotationPrefix+"backend-type"], bad.Annotations[annotationPrefix+"backend-data"] = "vxlan", `{"VtepMAC":"ff:ff:ff:ff:ff:ff"}`
		r.api.tell("MODIFIED", bad)
		r.want("1 2 3", `node "node-3": kept as it was: annotation flannel.alpha.coreos.com/backend-data`)
		bad.Name, bad.UID = "node-4", "uid-4"
		r.api.tell("ADDED", bad)
		r.want("1 2 3", "node-3", `node "node-4": annotation`)
		r.api.tell("DELETED", bad)
		r.api.tell("MODIFIED", apiNode(3))
		r.want("1 2 3")
		other := apiNode(3)
		other.UID = "uid-of-the-one-before"
		r.api.tell("DELETED", other)
		r.want("1 2 3")
		r.api.tell("DELETED", apiNode(3))
		r.want("1 2")
		r.api.tell("DELETED", apiNode(1)) // this node
		r.want("2")
		if lists := len(r.api.asked()); lists != 1 {
			t.Errorf("%d lists", lists)
		}
	})
}

func TestSourceConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, newScript(apiNode(1), apiNode(2)), "")
		defer r.stop()
		double := apiNode(9)
		double.PodCIDRs = apiNode(2).PodCIDRs
		r.api.tell("ADDED", double)
		r.want("1 2", `node "node-9": podCIDR 10.244.2.0/24 is that of the older node "node-2"`)
		r.api.tell("DELETED", apiNode(2)) // in one step
		r.want("1 9")
	})
}

func TestSourceWipedAnnotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flanneld := apiNode(2)
		flanneld.Annotations = map[string]string{annotationPrefix + "kube-subnet-manager": "true", annotationPrefix + "backend-type": "vxlan",
			annotationPrefix + "backend-data": `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02"}`, annotationPrefix + "public-ip": "192.168.1.2"}
		r := start(t, newScript(apiNode(1), flanneld), "")
		defer r.stop()
		mac := func() string { return r.Snapshot().Nodes[1].VTEPMAC.String() }
		r.api.tell("MODIFIED", apiNode(2))
		r.want("1 2", "its annotations are gone: kept as it was for 1m0s")
		if mac() != "8e:12:fe:33:01:02" {
			t.Errorf("MAC %q", mac())
		}
		time.Sleep(30 * time.Second)
		r.api.tell("MODIFIED", flanneld) // its agent published them again
		r.want("1 2")
		r.api.tell("MODIFIED", apiNode(2))
		time.Sleep(40 * time.Second)
		r.api.tell("MODIFIED", apiNode(2)) // a heartbeat does not lengthen it
		if mac() == "" {
			t.Error("let go too soon")
		}
		time.Sleep(25 * time.Second)
		synctest.Wait()
		r.want("1 2")
		if mac() != "" {
			t.Errorf("MAC %q", mac())
		}
	})
}

func TestSourceFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, newScript(apiNode(1), apiNode(2), apiNode(3)), "")
		defer r.stop()
		// The connection is lost and nobody answers for an hour.
		r.api.set(func() { r.api.err = errors.New("connection refused") })
		r.api.drop()
		r.want("1 2 3")
		began := time.Now()
		time.Sleep(time.Hour)
		synctest.Wait()
		r.want("1 2 3", "nodes are kept as they were: Kubernetes API: list nodes: connection refused")
		tries := 0
		for _, at := range r.api.asked() {
			if at.After(began) {
				tries++
			}
		}
		if tries < 120 || tries > 400 {
			t.Errorf("%d tries in an hour", tries)
		}
		r.api.set(func() { r.api.err = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		r.want("1 2 3")
		if got := r.relists(reasonStart) + r.relists(reasonFailed); got != 1 {
			t.Errorf("%d lists: a watch goes on from where it was", got)
		}
		// 410: list again, compare everything.
		r.api.set(func() {
			delete(r.api.nodes, "node-3")
			r.api.nodes["node-4"] = apiNode(4)
			r.api.gone = true
		})
		r.api.drop()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		r.want("1 2 4")
		if got := r.relists(reasonExpired); got != 1 {
			t.Errorf("%d lists after 410", got)
		}
		// etcd restored: the versions go back.
		r.api.set(func() {
			r.api.version = 40
			delete(r.api.nodes, "node-4")
		})
		r.api.drop()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		r.want("1 2")
		if got := r.relists(reasonRestored); got != 1 {
			t.Errorf("%d lists after a restore", got)
		}
		// RBAC lost: said at once.
		r.api.set(func() { r.api.err = &kubeapi.StatusError{Code: 403, Reason: "Forbidden", Message: "no"} })
		r.api.drop()
		time.Sleep(time.Second)
		synctest.Wait()
		r.want("1 2", "403 Forbidden: no")
	})
}

// 429: the server says when to come again.
func TestSourceThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newScript(apiNode(1))
		api.err = &kubeapi.StatusError{Code: 429, Reason: "TooManyRequests", Wait: 40 * time.Second}
		r := start(t, api, "")
		defer r.stop()
		time.Sleep(10 * time.Minute)
		if n := len(api.asked()); n < 9 || n > 16 {
			t.Errorf("%d lists in 10 minutes", n)
		}
	})
}

// A server that ends every watch at once is not asked all the time.
func TestSourceShortWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newScript(apiNode(1))
		api.short = true
		r := start(t, api, "")
		defer r.stop()
		time.Sleep(10 * time.Minute)
		if n := len(api.asked()); n > 60 {
			t.Errorf("%d lists in 10 minutes", n)
		}
		r.want("1", "watch nodes: ended at once")
	})
}

// The state of the disk does not come before what a slow list has told already.
func TestRestoreDuringList(t *testing.T) {
	s := newStore(converter{testKeys(), dualStack("vxlan")}, "node-1")
	listing := s.begin(time.Now())
	fresh := apiNode(2)
	fresh.Addresses[0].Address = "192.168.1.99"
	listing.add(fresh)
	old, _, err := s.convert.peer(apiNode(2))
	if err != nil {
		t.Fatal(err)
	}
	s.restore([]ranked{{old, 2, "uid-2"}}, [2]rtnl.MAC{}, "from the disk")
	listing.end()
	if got := s.take(); len(got.Nodes) != 1 || got.Nodes[0].Addresses[0].String() != "192.168.1.99" || len(got.Problems) > 0 {
		t.Errorf("%+v", got)
	}
}

// A list without most of the nodes is asked for again before anyone believes it.
func TestSourceShrunkList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newScript()
		for i := range 10 {
			api.nodes[apiNode(i+1).Name] = apiNode(i + 1)
		}
		r := start(t, api, "")
		defer r.stop()
		api.set(func() {
			api.nodes = map[string]kubeapi.Node{}
			api.gone = true
		})
		api.drop()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		r.want("") // the agent holds the peers
		api.set(func() {
			for i := range 10 {
				api.nodes[apiNode(i+1).Name] = apiNode(i + 1)
			}
		})
		time.Sleep(31 * time.Second)
		synctest.Wait()
		r.want("1 10 2 3 4 5 6 7 8 9")
		if got := r.relists(reasonShrunk); got != 1 {
			t.Errorf("%d lists", got)
		}
	})
}

func TestSourceDisk(t *testing.T) {
	state := filepath.Join(t.TempDir(), "nodes.json")
	synctest.Test(t, func(t *testing.T) {
		own := apiNode(1)
		own.Annotations = map[string]string{annotationPrefix + "backend-type": "vxlan", annotationPrefix + "backend-data": `{"VNI":1,"VtepMAC":"8e:12:fe:33:01:02"}`}
		r := start(t, newScript(own, apiNode(2), apiNode(3)), state)
		time.Sleep(3 * time.Second)
		r.stop()
		if info, err := os.Stat(state); err != nil || info.Mode() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}
		if saved := r.Saved(); len(saved) != 3 {
			t.Errorf("saved %v", saved)
		}
		api := newScript()
		api.err = errors.New("connection refused")
		r = start(t, api, state)
		defer r.stop()
		r.want("1 2 3", "nodes are from the disk, as they were on 2000-01-01")
		if mac := r.Snapshot().Nodes[0].VTEPMAC.String(); mac != "8e:12:fe:33:01:02" {
			t.Errorf("MAC of this node %q", mac)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		r.want("1 2 3", "nodes are from the disk", "nodes are kept as they were")
		api.set(func() {
			api.err = nil
			api.nodes["node-1"], api.nodes["node-2"], api.nodes["node-5"] = apiNode(1), apiNode(2), apiNode(5)
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		r.want("1 2 5")
		if mac := r.Snapshot().Nodes[0].VTEPMAC.String(); mac != "8e:12:fe:33:01:02" {
			t.Errorf("MAC of this node %q", mac)
		}
	})
}

// What is on the disk is not believed blindly.
func TestDiskFaults(t *testing.T) {
	good := `{"podnetNodes":1,"node":"node-1","saved":"2026-11-20T00:00:00Z","nodes":1}
{"name":"node-2","uid":"u","created":1,"podCIDRs":["10.244.2.0/24"],"addresses":["192.168.1.2"]}
`
	for _, c := range []struct{ name, text, want string }{
		{"good", good, ""},
		{"empty", "", "not a list of nodes"},
		{"another format", "kind: x", "not a list of nodes"},
		{"cut", good[:len(good)-20], "unexpected EOF"},
		{"a node is missing", strings.SplitAfter(good, "\n")[0], "has 0 nodes, says 1"},
		{"of another node", strings.Replace(good, "node-1", "node-9", 1), `is of node "node-9", this is "node-1"`},
		{"hostile", strings.Replace(good, "10.244.2.0/24", "0.0.0.0/0", 1), "want unicast"},
		{"zeros", strings.Repeat("\x00", 4096), "not a list of nodes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "nodes.json")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, all, err := read(path, "node-1")
			if c.want == "" && (err != nil || len(all) != 1) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, %v; want %q", all, err, c.want)
			}
		})
	}
	if err := os.Mkdir(filepath.Join(t.TempDir(), "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(t.TempDir(), "node-1"); err == nil {
		t.Error("a directory was read")
	}
	if err := write(filepath.Join(t.TempDir(), "missing", "x"), "node-1", nil); err == nil {
		t.Error("written into a directory that is not there")
	}
}

func TestMetricsLint(t *testing.T) {
	m := NewMetrics()
	s := New(newScript(), Options{NodeName: "node-1", Metrics: m})
	s.hear()
	problems, err := testutil.CollectAndLint(m)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(m)
	if _, err := r.Gather(); err != nil {
		t.Error(err)
	}
}

// BenchmarkSnapshot: one node of 5,000 changes.
func BenchmarkSnapshot(b *testing.B) {
	s := newStore(converter{testKeys(), dualStack("vxlan")}, "node-0")
	nodes := make([]kubeapi.Node, 5000)
	for i := range nodes {
		n := apiNode(0)
		n.Name, n.UID, n.Created = fmt.Sprintf("node-%d", i), fmt.Sprintf("uid-%d", i), int64(i%100)
		n.PodCIDRs = []string{fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255), fmt.Sprintf("fd00:244:0:%x::/64", i)}
		n.Addresses = []kubeapi.Address{{Type: "InternalIP", Address: fmt.Sprintf("172.16.%d.%d", i>>8, i&255)}, {Type: "InternalIP", Address: fmt.Sprintf("fd00::%x", i+1)}}
		nodes[i] = n
		s.put(n, time.Now())
	}
	b.ReportAllocs()
	for i := range b.N {
		n := nodes[i%len(nodes)]
		n.Created += int64(i)
		s.put(n, time.Now())
		if got := len(s.take().Nodes); got != len(nodes) {
			b.Fatalf("%d nodes", got)
		}
	}
}
