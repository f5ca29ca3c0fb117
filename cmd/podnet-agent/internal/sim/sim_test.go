package sim

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
)

var (
	nodesFlag  = flag.Int("sim.nodes", 200, "nodes of the cluster")
	agentsFlag = flag.Int("sim.agents", 20, "agents that are simulated; a divisor of the nodes")
	seedFlag   = flag.Uint64("sim.seed", 1, "of everything that is random in the model")
	windowFlag = flag.Duration("sim.window", 10*time.Second, "within which all agents start")
	netFlag    = flag.Float64("sim.gbit", 10, "network of the API servers together, Gbit/s")
)

var discard = slog.New(slog.DiscardHandler)

// cluster is the simulation.
type cluster struct {
	t      *testing.T
	s      *server
	keys   flannel.Keys
	rng    *rand.Rand
	nodes  int
	agents []*agentRun
	stride int // nodes that each agent stands for
	window time.Duration
	began  time.Time
}

// TestSimulation prints how long agents take to agree, and what it costs.
func TestSimulation(t *testing.T) {
	simulate(t, *nodesFlag, *agentsFlag, *netFlag, func(c *cluster) {
		c.start()
		c.quiet()
		c.oneChange()
		c.rack()
	})
}

// TestSlowWatches has a network in which the watches are a minute behind while all agents publish: nobody publishes twice.
func TestSlowWatches(t *testing.T) {
	simulate(t, 200, 20, 0.03, func(c *cluster) {
		c.start()
		if behind := c.s.drain().Sub(c.began); behind < time.Minute {
			t.Errorf("the network was busy for %v, which proves nothing", behind)
		}
		c.quiet()
	})
}

// simulate runs what body says in a cluster of its own, in a bubble of time of its own.
func simulate(t *testing.T, nodes, agents int, gbit float64, body func(*cluster)) {
	synctest.Test(t, func(t *testing.T) {
		if agents < 1 || nodes < 100 || nodes%agents != 0 {
			t.Fatalf("%d agents of %d nodes: want at least 100 nodes and a divisor of them", agents, nodes)
		}
		keys, err := flannel.NewKeys(flannel.DefaultPrefix)
		if err != nil {
			t.Fatal(err)
		}
		c := &cluster{t: t, keys: keys, rng: rand.New(rand.NewPCG(*seedFlag, 2)), nodes: nodes, stride: nodes / agents, window: *windowFlag}
		objects := make([]kubeapi.Node, nodes)
		for i := range objects {
			objects[i] = describe(keys, i, false)
		}
		c.s = newServer(*seedFlag, gbit*1e9/8, c.stride, objects)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { c.s.heartbeats(ctx) })
		defer wg.Wait()
		defer cancel()
		defer func() {
			for _, a := range c.agents {
				a.cancel()
			}
			for _, a := range c.agents {
				<-a.done
			}
		}()
		c.printf("%d nodes, %d agents simulated, seed %d, %g Gbit/s", nodes, agents, *seedFlag, gbit)
		body(c)
	})
}

func (c *cluster) printf(format string, args ...any) { fmt.Fprintf(c.t.Output(), format+"\n", args...) }

// mark is where something begins.
type mark struct {
	at            time.Time
	load          load
	writes, looks int
}

func (c *cluster) mark() mark {
	writes, looks := c.work()
	return mark{time.Now(), c.s.snapshot(), writes, looks}
}

// agree waits until no agent has anything to do and every kernel is as it should be, and prints how long that took since the mark.
func (c *cluster) agree(what string, m mark) {
	t := c.t
	w := c.s.want()
	const quiet = 11 * time.Second // longer than the agents' resync
	for deadline := time.Now().Add(10 * time.Minute); ; {
		time.Sleep(quiet)
		synctest.Wait()
		if time.Since(c.last()) < quiet {
			continue
		}
		var err error
		for _, a := range c.agents {
			if err = a.check(t, w); err != nil {
				break
			}
		}
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: no agreement: %v", what, err)
		}
	}
	var times []time.Duration
	for _, a := range c.agents {
		if last, _, _ := a.state(); last.After(m.at) {
			times = append(times, last.Sub(m.at))
		}
	}
	if len(times) == 0 {
		t.Fatalf("%s: nobody wrote anything", what)
	}
	slices.Sort(times)
	writes, looks := c.work()
	n := float64(len(c.agents))
	c.printf("%-26s all agree after %v (half of them after %v); until %v after, per agent %.1f writes, %.1f looks; API: %v",
		what, times[len(times)-1].Round(time.Millisecond), times[len(times)/2].Round(time.Millisecond), time.Since(m.at).Round(time.Second),
		float64(writes-m.writes)/n, float64(looks-m.looks)/n, c.s.snapshot().minus(m.load))
}

// last is when an agent wrote something last.
func (c *cluster) last() (last time.Time) {
	for _, a := range c.agents {
		if l, _, _ := a.state(); l.After(last) {
			last = l
		}
	}
	return last
}

func (c *cluster) work() (writes, looks int) {
	for _, a := range c.agents {
		_, w, l := a.state()
		writes, looks = writes+w, looks+l
	}
	return writes, looks
}

// start starts the agents of all nodes within the window, as a new DaemonSet would: the Node objects are there, their annotations are not.
func (c *cluster) start() {
	m := c.mark()
	c.began = m.at
	var starts []time.Duration
	for range c.nodes / c.stride {
		starts = append(starts, time.Duration(c.rng.Int64N(int64(c.window))))
	}
	slices.Sort(starts)
	for i, at := range starts {
		time.Sleep(time.Until(m.at.Add(at)))
		c.agents = append(c.agents, start(c.s, c.keys, i*c.stride))
	}
	c.agree(fmt.Sprintf("start within %v", c.window), m)
	// One look writes everything, one follows the notifications of that, and one comes every 10 s: 5,000 publications cause none.
	_, looks := c.work()
	if most := float64(3 + int(time.Since(m.at)/(10*time.Second))); float64(looks)/float64(len(c.agents)) > most {
		c.t.Errorf("%d looks of %d agents, want at most %g each", looks, len(c.agents), most)
	}
	var own []time.Duration
	for _, a := range c.agents {
		last, _, _ := a.state()
		own = append(own, last.Sub(a.began))
	}
	slices.Sort(own)
	c.printf("%-26s half in %v, the slowest in %v", "  each since its own start", own[len(own)/2].Round(time.Millisecond), own[len(own)-1].Round(time.Millisecond))
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	c.printf("%-26s %.1f MB per agent with its fake kernel", "memory of the simulation", float64(mem.HeapAlloc)/1e6/float64(len(c.agents)))
}

// quiet is a minute in which nothing happens but heartbeats.
func (c *cluster) quiet() {
	busy := c.s.drain()
	c.printf("%-26s the API servers' network is busy with it until %v after the beginning", "", busy.Sub(c.began).Round(time.Second))
	m := c.mark()
	time.Sleep(time.Minute)
	synctest.Wait()
	writes, looks := c.work()
	if writes != m.writes {
		c.t.Errorf("%d writes in a minute in which nothing changed", writes-m.writes)
	}
	if most := 7 * len(c.agents); looks-m.looks > most {
		c.t.Errorf("%d looks in a minute of heartbeats, want at most %d: one every 10 s", looks-m.looks, most)
	}
	if all := c.s.snapshot().patches; all != c.nodes {
		c.t.Errorf("%d publications of %d nodes, want one each", all, c.nodes)
	}
	l := c.s.snapshot().minus(m.load)
	c.printf("%-26s no write; per agent %.1f looks, %.2f MB from the API; API: %v", "a minute of heartbeats",
		float64(looks-m.looks)/float64(len(c.agents)), float64(l.bytes)/1e6/float64(c.nodes), l)
}

// stop ends the agents of the nodes from first to last.
func (c *cluster) stop(first, last int) {
	c.agents = slices.DeleteFunc(c.agents, func(a *agentRun) bool {
		if a.index < first || a.index > last {
			return false
		}
		a.stop()
		return true
	})
}

// oneChange is a node that comes back with another address. If its agent is one of those here, it is gone: its fake kernel has the old one.
func (c *cluster) oneChange() {
	i := c.nodes/2 + 1
	c.stop(i, i)
	m := c.mark()
	c.s.update(nodeName(i), func(n *kubeapi.Node) {
		n.Addresses = []kubeapi.Address{{Type: kubeapi.InternalIP, Address: nodeAddr(256 + c.nodes + i).String()}}
		annotate(c.keys, n)
	})
	c.agree("one node changes", m)
}

// rack is 40 nodes whose objects are deleted, their agents gone. Before that, while they are only unreachable (NotReady), their routes stay: nothing is to be
// won by taking them away.
func (c *cluster) rack() {
	const lost = 40
	first := c.nodes - lost
	c.stop(first, c.nodes)
	m := c.mark()
	for i := range lost {
		c.s.remove(nodeName(first + i))
		time.Sleep(5 * time.Millisecond) // one request after another, as the cloud's node controller sends them
	}
	c.agree(fmt.Sprintf("a rack of %d is lost", lost), m)
}
