package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubenode"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/hostgw"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/masq/masqtest"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/vxlan"
)

// The cluster: pods in 10.64.0.0/10, nodes in 172.16.0.0/12.
var (
	network = netconf.Config{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/10")},
		Backend:  netconf.Backend{Type: netconf.VXLAN, VNI: 1, Port: 8472},
	}
	device = vxlan.DeviceName(network.Backend.VNI, rtnl.IPv4)
)

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }
func nodeAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
}
func podCIDR(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64 + byte(i>>8), byte(i), 0}), 24)
}

// describe is the Node object of node i as its kubelet, the node IPAM controller and, if it has run, its agent made it.
func describe(keys flannel.Keys, i int, annotated bool) kubeapi.Node {
	n := kubeapi.Node{
		Name: nodeName(i), UID: fmt.Sprintf("uid-%d", i), Created: int64(1_700_000_000 + i),
		PodCIDRs:  []string{podCIDR(i).String()},
		Addresses: []kubeapi.Address{{Type: kubeapi.InternalIP, Address: nodeAddr(256 + i).String()}},
	}
	if annotated {
		annotate(keys, &n)
	}
	return n
}

// annotate is what an agent publishes of its node.
func annotate(keys flannel.Keys, n *kubeapi.Node) {
	said := flannel.Annotations{Managed: true, BackendType: netconf.VXLAN}
	f := said.Of(rtnl.IPv4)
	f.PublicIP = netip.MustParseAddr(n.Addresses[0].Address)
	f.Data.VNI, f.Data.MAC = network.Backend.VNI, vxlan.MACFor(n.Name, device)
	n.Annotations = keys.Encode(said)
}

// agentRun is one agent with its kernel.
type agentRun struct {
	index  int
	keys   flannel.Keys
	began  time.Time
	kernel *kernel
	listed string // version of the list under way
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	last   time.Time // of the last write
	writes int
	looks  int
}

func (a *agentRun) wrote(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last, a.writes = time.Now(), a.writes+n
}

func (a *agentRun) looked() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.looks++
}

// state returns when the agent wrote last, how many objects, and how often it looked at its kernel.
func (a *agentRun) state() (last time.Time, writes, looks int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.writes, a.looks
}

// start runs the agent of node i until it is stopped.
func start(s *server, keys flannel.Keys, i int) *agentRun {
	a := &agentRun{index: i, keys: keys, began: time.Now(), done: make(chan struct{})}
	k := rtnltest.NewKernel()
	n := k.Netns("host")
	n.AddUplink("eth0", k.Segment("lan"), netip.PrefixFrom(nodeAddr(256+i), 12))
	a.kernel = &kernel{n, a}
	parts := agent.Parts{Kernel: a.kernel, IPMasq: true,
		VXLAN: vxlan.New(a.kernel, vxlan.Options{KernelRelease: "6.18.0"}), HostGW: hostgw.New(a.kernel, hostgw.Options{}),
		Masq: masq.New(&masqtest.Kernel{}, masq.Options{})}
	concerns := slices.DeleteFunc(parts.Concerns(network), func(c agent.Concern) bool { return c.Name == "handoff" }) // no files
	api := &client{s, a}
	source := kubenode.New(api, kubenode.Options{NodeName: nodeName(i), Keys: keys, Net: network})
	publisher := kubenode.NewPublisher(api, source, kubenode.PublisherOptions{NodeName: nodeName(i), Keys: keys, Condition: true})
	var run *agent.Agent
	run = agent.New(agent.Options{
		NodeName: nodeName(i), Net: network, Resync: 10 * time.Second, Hold: time.Minute, Source: source, Kernel: a.kernel, Concerns: concerns,
		Observe: publisher.Observe,
		Watches: []agent.Watch{{Name: "publisher", Run: func(ctx context.Context, _ func()) error { return publisher.Run(ctx) }}, {Name: "rtnetlink", Run: func(ctx context.Context, notify func()) error {
			return n.Watch(ctx, rtnl.Groups{Links: true, Addrs: true, Routes: true, Neighs: true}, func(e rtnl.Event) {
				if run.Interests(e) {
					notify()
				}
			})
		}}},
		Metrics: agent.NewMetrics("sim", agent.Names(concerns)),
		Logger:  discard,
	})
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	go func() {
		defer close(a.done)
		_ = run.Run(ctx)
	}()
	return a
}

func (a *agentRun) stop() {
	a.cancel()
	<-a.done
}

// want is what every kernel of the cluster should hold, but for its own node's entries.
type want struct {
	fdb    map[rtnl.FDB]string
	neighs map[rtnl.Neigh]string
	routes map[netip.Prefix]string
}

func (s *server) want() want {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := want{make(map[rtnl.FDB]string), make(map[rtnl.Neigh]string), make(map[netip.Prefix]string)}
	for name, n := range s.nodes {
		mac, p := vxlan.MACFor(name, device), netip.MustParsePrefix(n.PodCIDRs[0])
		w.fdb[rtnl.FDB{Link: device, MAC: mac, Dst: netip.MustParseAddr(n.Addresses[0].Address)}] = name
		w.neighs[rtnl.Neigh{Link: device, IP: p.Addr(), MAC: mac, Permanent: true}] = name
		w.routes[p] = name
	}
	return w
}

// check returns what is missing or wrong in the agent's kernel.
func (a *agentRun) check(t *testing.T, w want) error {
	ctx := t.Context()
	n := a.kernel.FakeNetns
	fdb, err1 := n.FDB(ctx, device)
	neighs, err2 := n.Neighs(ctx, device)
	routes, err3 := n.Routes(ctx, rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	own := nodeName(a.index)
	var faults []string
	compare := func(what string, have, all int, unexpected []string) {
		if len(unexpected) > 0 || have != all {
			faults = append(faults, fmt.Sprintf("%d %s, want %d; unexpected: %.3q", have, what, all, unexpected))
		}
	}
	compare("fdb entries", len(fdb), len(w.fdb)-1, unexpected(fdb, own, func(o rtnl.FDB) string { return w.fdb[o] }))
	compare("neighbours", len(neighs), len(w.neighs)-1, unexpected(neighs, own, func(o rtnl.Neigh) string { return w.neighs[o] }))
	compare("routes", len(routes), len(w.routes)-1, unexpected(routes, own, func(o rtnl.Route) string { return w.routes[o.Dst] }))
	if faults != nil {
		return fmt.Errorf("%s: %s", own, strings.Join(faults, "; "))
	}
	return nil
}

func unexpected[O rtnl.Object](have []O, own string, owner func(O) string) (out []string) {
	for _, o := range have {
		if who := owner(o); (who == "" || who == own) && len(out) < 3 {
			out = append(out, o.String())
		}
	}
	return out
}
