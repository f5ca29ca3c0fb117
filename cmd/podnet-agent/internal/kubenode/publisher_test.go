package kubenode

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

// writerScript is the API server that a Publisher writes to: it applies the patches to the Node of script and tells the watch of them.
type writerScript struct {
	*script
	patches []string
	events  []string
	counts  []string
	fail    error
}

func (w *writerScript) PatchNodeStatus(_ context.Context, name string, patch any) (kubeapi.Node, error) {
	text, _ := json.Marshal(patch)
	w.mu.Lock()
	if w.fail != nil {
		defer w.mu.Unlock()
		return kubeapi.Node{}, w.fail
	}
	w.patches = append(w.patches, string(text))
	n := w.nodes[name]
	var p struct {
		Metadata struct {
			UID         string
			Annotations map[string]*string
		}
		Status struct{ Conditions []kubeapi.Condition }
	}
	if err := json.Unmarshal(text, &p); err != nil || p.Metadata.UID != n.UID {
		panic(fmt.Sprint(string(text), err))
	}
	annotations := map[string]string{}
	for k, v := range n.Annotations {
		annotations[k] = v
	}
	for k, v := range p.Metadata.Annotations {
		if v == nil {
			delete(annotations, k)
		} else {
			annotations[k] = *v
		}
	}
	n.Annotations = annotations
	if len(p.Status.Conditions) > 0 {
		n.Network = p.Status.Conditions[0]
	}
	go w.tellLater(n)
	n.ResourceVersion = fmt.Sprint(w.version + 1)
	w.mu.Unlock()
	return n, nil
}

// tellLater: the watch hears of a patch after who made it.
func (w *writerScript) tellLater(n kubeapi.Node) {
	time.Sleep(20 * time.Millisecond)
	w.mu.Lock()
	w.version++
	n.ResourceVersion = fmt.Sprint(w.version)
	w.nodes[n.Name] = n
	watch := w.watches[len(w.watches)-1]
	w.mu.Unlock()
	watch <- kubeapi.Event{Type: "MODIFIED", Node: n}
}

func (w *writerScript) CreateEvent(_ context.Context, namespace string, event any) error {
	e := event.(map[string]any)
	w.set(func() {
		w.events = append(w.events, fmt.Sprintf("%s %s: %s", e["type"], e["reason"], e["message"]))
	})
	return w.fail
}

func (w *writerScript) PatchEvent(_ context.Context, _, name string, patch any) error {
	w.set(func() { w.counts = append(w.counts, fmt.Sprint(patch.(map[string]any)["count"])) })
	return nil
}

type publishing struct {
	*running
	w *writerScript
	p *Publisher
}

func startPublisher(t *testing.T, nodes ...kubeapi.Node) *publishing {
	w := &writerScript{script: newScript(nodes...)}
	r := start(t, w.script, "")
	p := NewPublisher(w, r.Source, PublisherOptions{NodeName: "node-1", Keys: testKeys(), Condition: true})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.Run(ctx) })
	stop := r.stop
	r.stop = func() {
		cancel()
		wg.Wait()
		time.Sleep(time.Second) // what the API server still has to tell
		stop()
	}
	synctest.Wait()
	return &publishing{r, w, p}
}

// stands is the outcome of a pass in which everything stands; fault names what does not, and why.
func stands(fault ...string) agent.Outcome {
	o := agent.Outcome{Converged: len(fault) == 0}
	o.Desired = agent.Desired{Net: dualStack("vxlan"), Node: node.Node{Name: "node-1"}, Locals: []agent.Local{
		{Family: rtnl.IPv4, Addr: netip.MustParseAddr("192.168.1.1"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24")},
		{Family: rtnl.IPv6, Addr: netip.MustParseAddr("fd00::1"), PodCIDR: netip.MustParsePrefix("fd00:244:0:1::/64")},
	}}
	for _, name := range []string{"node", "uplink", "sysctl", "vxlan", "host-gw", "masq", "handoff"} {
		s := agent.State{Name: name}
		if len(fault) == 2 && fault[0] == name {
			s.Text = fault[1]
		}
		o.States = append(o.States, s)
	}
	return o
}

func (p *publishing) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// patched and written are copies of what the API server was asked for.
func (p *publishing) patched() (out []string) {
	p.w.set(func() { out = slices.Clone(p.w.patches) })
	return out
}

func (p *publishing) written() (out []string) {
	p.w.set(func() { out = slices.Clone(p.w.events) })
	return out
}

func (p *publishing) own() (n kubeapi.Node) {
	p.w.set(func() { n = p.w.nodes["node-1"] })
	return n
}

func TestPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPublisher(t, apiNode(1), apiNode(2))
		defer p.stop()
		p.after(time.Minute)
		if len(p.patched()) > 0 {
			t.Fatalf("published before anything stood: %v", p.patched())
		}
		p.p.Observe(stands("vxlan", "device busy"))
		p.after(5 * time.Second)
		if len(p.own().Annotations) > 0 {
			t.Fatalf("published though the backend does not stand: %v", p.own().Annotations)
		}
		p.p.Observe(stands())
		p.after(100 * time.Millisecond)
		d := stands().Desired
		want := map[string]string{
			annotationPrefix + "kube-subnet-manager": "true", annotationPrefix + "backend-type": "vxlan",
			annotationPrefix + "public-ip": "192.168.1.1", annotationPrefix + "public-ipv6": "fd00::1",
			annotationPrefix + "backend-data":    fmt.Sprintf(`{"VNI":1,"VtepMAC":"%s"}`, d.VTEPMAC(rtnl.IPv4)),
			annotationPrefix + "backend-v6-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":"%s"}`, d.VTEPMAC(rtnl.IPv6)),
		}
		if diff := cmp.Diff(want, p.own().Annotations); diff != "" {
			t.Error(diff)
		}
		if got := p.own().Network; got.Status != "False" || got.Reason != ReasonUp {
			t.Errorf("%+v", got)
		}
		n := len(p.patched())
		for range 100 {
			p.p.Observe(stands())
			p.after(time.Second)
		}
		if len(p.patched()) != n {
			t.Errorf("patched without need: %v", p.patched()[n:])
		}

		// Somebody wipes them.
		wiped := p.own()
		wiped.Annotations = map[string]string{annotationPrefix + "public-ip-overwrite": "203.0.113.7"}
		p.w.tell("MODIFIED", wiped)
		p.after(100 * time.Millisecond)
		want[annotationPrefix+"public-ip"], want[annotationPrefix+"public-ip-overwrite"] = "203.0.113.7", "203.0.113.7"
		if diff := cmp.Diff(want, p.own().Annotations); diff != "" {
			t.Error(diff)
		}

		// The Node is deleted and made again.
		p.w.tell("DELETED", p.own())
		p.after(20 * time.Second)
		fresh := apiNode(1)
		fresh.UID = "another"
		p.w.tell("ADDED", fresh)
		p.after(100 * time.Millisecond)
		if p.own().Annotations[annotationPrefix+"backend-data"] == "" || p.own().Network.Reason != ReasonUp {
			t.Errorf("%+v", p.own())
		}

		// A family is no more.
		o := stands()
		o.Desired.Net.Networks, o.Desired.Locals = o.Desired.Net.Networks[:1], o.Desired.Locals[:1]
		p.p.Observe(o)
		p.after(100 * time.Millisecond)
		if _, ok := p.own().Annotations[annotationPrefix+"public-ipv6"]; ok {
			t.Errorf("%v", p.own().Annotations)
		}
	})
}

func TestPublishCondition(t *testing.T) {
	for _, c := range []struct{ what, why, reason, message string }{
		{"uplink", "no device has an address of this node", "NoUplink", "no device has an address of this node"},
		{"vxlan", "device busy", "RoutesMissing", "backend vxlan: device busy"},
		{"masq", "nft: no such file", "NetworkIncomplete", "masq: nft: no such file"},
		{"node", "x", "NodeNotUsable", "x: compare spec.podCIDRs"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := startPublisher(t, apiNode(1), apiNode(2))
			defer p.stop()
			p.p.Observe(stands())
			p.after(time.Second)
			p.p.Observe(stands(c.what, c.why))
			p.after(4 * time.Second)
			p.p.Observe(stands())
			p.after(time.Second)
			p.p.Observe(stands(c.what, c.why))
			p.after(8 * time.Second)
			if got := p.own().Network; got.Status != "False" {
				t.Errorf("a hiccup: %+v", got)
			}
			p.after(10 * time.Second)
			if got := p.own().Network; got.Status != "True" || got.Reason != c.reason || !strings.HasPrefix(got.Message, c.message) {
				t.Errorf("%+v", got)
			}
			n := len(p.patched())
			for i := range 60 { // the message counts up: no reason to patch
				p.p.Observe(stands(c.what, fmt.Sprint(c.why, i)))
				p.after(time.Second)
			}
			if len(p.patched()) != n {
				t.Errorf("%d patches", len(p.patched())-n)
			}
			p.p.Observe(stands())
			p.after(100 * time.Millisecond)
			if got := p.own().Network; got.Status != "False" || got.Reason != ReasonUp {
				t.Errorf("%+v", got)
			}
			if len(p.written()) != 2 || !strings.HasPrefix(p.written()[0], "Warning "+c.reason+": "+c.message) || !strings.HasPrefix(p.written()[1], "Normal "+ReasonUp) {
				t.Errorf("events %q", p.written())
			}
		})
	}
}

func TestPublishNoPodCIDR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := apiNode(1)
		own.PodCIDRs = nil
		p := startPublisher(t, own)
		defer p.stop()
		p.want("1") // with nothing in it: the agent says what it lacks
		o := stands("node", `node "node-1" has no IPv4 podCIDR`)
		o.Desired.Locals = nil
		p.p.Observe(o)
		p.after(25 * time.Minute)
		if got := p.own().Network; got.Status != "True" || got.Reason != "NoPodCIDR" || !strings.Contains(got.Message, "--allocate-node-cidrs") {
			t.Errorf("%+v", got)
		}
		if len(p.written()) != 1 || fmt.Sprint(p.w.counts) != "[2 3]" { // counted every 10 minutes
			t.Errorf("events %q, counts %v", p.written(), p.w.counts)
		}
	})
}

func TestPublishConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPublisher(t, apiNode(1), apiNode(2))
		defer p.stop()
		p.p.Observe(stands())
		p.after(time.Second)
		young := apiNode(5)
		young.PodCIDRs = apiNode(1).PodCIDRs
		p.w.tell("ADDED", young)
		p.p.Observe(stands())
		p.after(time.Second)
		if got := p.own().Network; got.Status != "False" {
			t.Errorf("the younger one has to give way: %+v", got)
		}
		if len(p.written()) != 1 || !strings.Contains(p.written()[0], `Warning NodeConflict: node "node-5": podCIDR 10.244.1.0/24 is that of the older node "node-1"`) {
			t.Errorf("%q", p.written())
		}
		p.w.tell("DELETED", young)
		old := young
		old.Created = -5
		p.w.tell("ADDED", old)
		p.p.Observe(stands())
		p.after(time.Second)
		if got := p.own().Network; got.Status != "True" || got.Reason != "NodeConflict" || !strings.Contains(got.Message, "delete the Node object that is no more") {
			t.Errorf("%+v", got)
		}
		p.w.tell("DELETED", old)
		p.p.Observe(stands())
		p.after(time.Second)
		if got := p.own().Network; got.Status != "False" {
			t.Errorf("%+v", got)
		}
	})
}

// Somebody writes other annotations again and again: give way, slowly.
func TestPublishFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPublisher(t, apiNode(1))
		defer p.stop()
		p.p.Observe(stands())
		p.after(time.Second)
		for range 300 {
			n := p.own()
			n.Annotations = map[string]string{annotationPrefix + "public-ip": "192.168.1.99"}
			p.w.tell("MODIFIED", n)
			p.after(200 * time.Millisecond)
		}
		if n := len(p.patched()); n < 15 || n > 30 {
			t.Errorf("%d patches in a minute", n)
		}
	})
}

func TestPublishRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPublisher(t, apiNode(1))
		defer p.stop()
		p.w.set(func() { p.w.fail = &kubeapi.StatusError{Code: 403, Reason: "Forbidden", Message: "cannot patch"} })
		for range 600 {
			p.p.Observe(stands())
			p.after(time.Second)
		}
		if n := len(p.written()); n < 3 || n > 15 || !strings.Contains(p.written()[0], "PodnetForbidden: podnet-agent may not patch nodes/status") {
			t.Errorf("%d events: %q", n, p.written())
		}
		p.w.set(func() { p.w.fail = nil })
		p.after(40 * time.Second)
		if p.own().Annotations[annotationPrefix+"public-ip"] == "" {
			t.Error("not published when it may be")
		}
	})
}

func TestBucket(t *testing.T) {
	now := time.Unix(0, 0)
	b := bucket{size: 3, every: 10 * time.Second}
	for i := range 3 {
		if b.take(now) != 0 {
			t.Errorf("refused the %d", i)
		}
	}
	if wait := b.take(now.Add(4 * time.Second)); wait != 6*time.Second {
		t.Errorf("wait %v", wait)
	}
	if b.take(now.Add(10*time.Second)) != 0 || b.take(now.Add(11*time.Second)) == 0 {
		t.Error("one comes back after 10 s")
	}
	if b.take(now.Add(time.Hour)) != 0 || b.used != 1 {
		t.Error("all come back")
	}
}
