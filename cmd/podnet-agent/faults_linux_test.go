package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/vxlan"
)

// The tests in this file are rows of the table that make faults prints; test/faults has the catalogue. What they measure they say by t.Attr.

func requireFaults(t *testing.T) {
	t.Helper()
	rtnltest.RequireKernel(t, "agents in network namespaces")
	if os.Getenv("PODNET_FAULTS") == "" {
		t.Skip("takes minutes: make faults runs it (PODNET_FAULTS=1)")
	}
}

// took says how long a fault was felt.
func took(t *testing.T, d, limit time.Duration) {
	t.Helper()
	t.Attr("outage", fmt.Sprintf("%dms", d.Milliseconds()))
	if d > limit {
		t.Errorf("felt for %v, want at most %v", d.Round(time.Millisecond), limit)
	}
}

// deafBinary builds an agent that hears no event of the kernel.
var deafBinary = sync.OnceValues(func() (string, error) {
	usual, err := agentBinary()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(usual), "podnet-agent-deaf")
	cmd := exec.Command("go", "build", "-ldflags", "-X main.events=off", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func (n *testNode) startDeaf() {
	n.t.Helper()
	deaf, err := deafBinary()
	if err != nil {
		n.t.Fatal(err)
	}
	n.cmd = n.command()
	n.cmd.Path, n.cmd.Stdout, n.cmd.Stderr = deaf, &n.log, &n.log
	if err := n.ns.Do(n.cmd.Start); err != nil {
		n.t.Fatal(err)
	}
}

// kernelState is all that the agent keeps of a node's kernel, and more: without what the kernel learns by itself, and link-local addresses.
func kernelState(t *testing.T, n *testNode) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(dump(t, n)) {
		learned := strings.HasPrefix(line, "neigh ") && !strings.Contains(line, "permanent")
		if !learned && !strings.Contains(line, "fe80:") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// steadyProbe is a probe whose packets wait in large buffers while this machine is busy with something else.
func steadyProbe(t *testing.T, from, to *testNode, v6 bool) *probe {
	t.Helper()
	p := startProbe(t, from, to, v6)
	for _, c := range []net.PacketConn{p.conn, p.server} {
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// unnoticed runs f while 1,000 packets a second are under way, and wants every one answered.
func unnoticed(t *testing.T, from, to *testNode, f func()) {
	t.Helper()
	p := steadyProbe(t, from, to, false)
	if !p.answers(100) {
		t.Fatal("no packets before the fault")
	}
	f()
	if !p.answers(20) && !p.answers(1) { // 5 s each: a busy machine sends fewer
		t.Error("no packets after the fault")
	}
	sent, lost, outage := p.finish()
	t.Attr("lost", fmt.Sprintf("%d of %d", lost, sent))
	if lost > 0 {
		t.Errorf("%d of %d packets lost", lost, sent)
	}
	t.Attr("outage", fmt.Sprintf("%dms", outage.Milliseconds()))
}

// hearing is an agent that hears the kernel's events, or one that does not, and how soon it heals.
type hearing struct {
	name  string
	start func(*testNode)
	limit time.Duration
}

func hearings() []hearing {
	return []hearing{
		{"event", func(n *testNode) { n.start() }, time.Second},
		{"silent", func(n *testNode) { n.startDeaf() }, 10 * time.Second},
	}
}

// TestFaultHeals breaks what the agent keeps, with packets under way.
func TestFaultHeals(t *testing.T) {
	requireFaults(t)
	for _, how := range hearings() {
		t.Run(how.name, func(t *testing.T) {
			c := newCluster(t, 2)
			a, b := c.nodes[0], c.nodes[1]
			for _, n := range c.nodes {
				how.start(n)
			}
			for _, n := range c.nodes {
				n.waitReady()
			}
			wantReach(t, a, b)
			for _, fault := range faultsOf(a) {
				t.Run(fault.name, func(t *testing.T) {
					took(t, repeated(t, how, func() time.Duration { return packetOutage(t, a, b, fault.do) }), how.limit)
				})
			}
			for _, fault := range quietFaults(a) {
				how := how
				if fault.silent {
					how.limit = 10 * time.Second
				}
				t.Run(fault.name, func(t *testing.T) {
					took(t, repeated(t, how, func() time.Duration { return healed(t, fault) }), how.limit)
				})
			}
			for _, fault := range uplinkFaults(a) {
				t.Run(fault.name, func(t *testing.T) {
					took(t, repeated(t, how, func() time.Duration { return uplinkOutage(t, a, b, fault.do) }), how.limit)
				})
			}
		})
	}
}

// TestFaultHealsHostGW does the same to the other backend, whose routes go away with the uplink.
func TestFaultHealsHostGW(t *testing.T) {
	requireFaults(t)
	for _, how := range hearings() {
		t.Run(how.name, func(t *testing.T) {
			c := newCluster(t, 2)
			c.netConf("host-gw", "10.244.0.0/16")
			a, b := c.nodes[0], c.nodes[1]
			// Without duplicate address detection of the link-local address, before which the kernel looks for no neighbour on behalf of
			// pods: that takes the kernel up to two seconds, and it is the agent that is measured here.
			for _, device := range []string{"default", "eth0"} {
				mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv6/conf/" + device + "/accept_dad", Value: "0"}})
			}
			for _, n := range c.nodes {
				how.start(n)
			}
			for _, n := range c.nodes {
				n.waitReady()
			}
			wantReach(t, a, b)
			t.Run("routes flushed", func(t *testing.T) {
				took(t, repeated(t, how, func() time.Duration {
					return packetOutage(t, a, b, func(t *testing.T) { flush(t, a, rtnl.ProtocolHostGW) })
				}), how.limit)
			})
			for _, fault := range uplinkFaults(a) {
				t.Run(fault.name, func(t *testing.T) {
					took(t, repeated(t, how, func() time.Duration { return uplinkOutage(t, a, b, fault.do) }), how.limit)
				})
			}
		})
	}
}

// repeated is the outage of a fault. On a machine that is busy with other things one in three has to do: the kernel's rtnl lock is one for
// all namespaces. What takes ten seconds is done once.
func repeated(t *testing.T, how hearing, outage func() time.Duration) time.Duration {
	t.Helper()
	d := outage()
	for range 2 {
		if d <= how.limit || how.limit > time.Second || t.Failed() {
			break
		}
		t.Logf("once more: %v", d.Round(time.Millisecond))
		d = min(d, outage())
	}
	return d
}

// packetOutage is how long no packet came through.
func packetOutage(t *testing.T, a, b *testNode, do func(*testing.T)) time.Duration {
	t.Helper()
	before := kernelState(t, a)
	p := steadyProbe(t, a, b, false)
	if !p.answers(100) {
		t.Fatal("no packets before the fault")
	}
	do(t)
	if !poll(15*time.Second, func() bool { return kernelState(t, a) == before }) {
		t.Errorf("not as before:\n%s\nwas:\n%s", kernelState(t, a), before)
	}
	if !p.answers(100) {
		t.Error("no packets any more")
	}
	sent, lost, outage := p.finish()
	t.Logf("%d sent, %d lost, outage %v", sent, lost, outage.Round(time.Millisecond))
	return outage
}

// quietFault is one that not every packet feels.
type quietFault struct {
	name   string
	do     func(*testing.T)
	stands func() bool
	silent bool // the kernel does not announce it
}

func healed(t *testing.T, f quietFault) time.Duration {
	t.Helper()
	if !poll(5*time.Second, f.stands) {
		t.Fatal("does not stand before the fault")
	}
	f.do(t)
	start := time.Now()
	if !poll(15*time.Second, f.stands) {
		t.Fatal("never healed")
	}
	return time.Since(start)
}

func quietFaults(a *testNode) []quietFault {
	ctx := context.Background()
	vtep := vxlan.DeviceName(1, rtnl.IPv4)
	masquerade := masq.New(&masq.Netfilter{Netns: a.ns.Path()}, masq.Options{})
	mtu := func() bool {
		l, err := a.conn.Link(ctx, vtep)
		return err == nil && l.MTU == 1450
	}
	rules := func() bool {
		env := masqConfig(a.t, a)
		p, err := masquerade.Plan(ctx, env)
		return err == nil && p.Empty()
	}
	nft := func(args ...string) func(*testing.T) {
		return func(t *testing.T) {
			if err := a.ns.Do(func() error {
				out, err := exec.Command("nft", args...).CombinedOutput()
				if err != nil {
					err = fmt.Errorf("nft: %w: %s", err, out)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	forwarding := func() bool {
		v, err := a.conn.Sysctl(ctx, "net/ipv4/ip_forward")
		return err == nil && v == "1"
	}
	faults := []quietFault{
		{"VTEP's MTU rewritten", func(t *testing.T) {
			mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: vtep, MTU: 1280}})
		}, mtu, false},
		{"nft flushed", nft("flush", "ruleset"), rules, false},
		{"nft chain flushed", nft("flush", "chain", "ip", masq.DefaultName, "postrouting"), rules, false},
	}
	return append(faults, quietFault{"forwarding turned off", func(t *testing.T) {
		mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "0"}})
	}, forwarding, true})
}

// uplinkFaults leave the uplink as it was; from then on time counts.
func uplinkFaults(a *testNode) []fault {
	port := fmt.Sprintf("port%d", a.index)
	fabric := func(t *testing.T, up rtnl.Switch) {
		mustWrite(t, a.fabric.Conn(t), rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: port, Up: up}})
	}
	return []fault{
		{"uplink loses its carrier ten times", func(t *testing.T) {
			for range 10 {
				fabric(t, rtnl.Off)
				time.Sleep(50 * time.Millisecond) // how long a flap lasts
				fabric(t, rtnl.On)
				time.Sleep(50 * time.Millisecond)
			}
		}},
		{"uplink down and up ten times", func(t *testing.T) {
			for range 10 {
				mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.Off}})
				time.Sleep(50 * time.Millisecond)
				mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}})
				time.Sleep(50 * time.Millisecond)
			}
			// The kernel forgets IPv6 addresses of a device that goes down; whoever configures the uplink gives it them again.
			mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(a.addr(true), 64), NoDAD: true}})
		}},
		{"uplink deleted and made again", func(t *testing.T) {
			eth0, err := a.conn.Link(t.Context(), "eth0")
			if err != nil {
				t.Fatal(err)
			}
			mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: "eth0"}})
			a.plug()
			// The same hardware. Another MAC is for ARP to find out, which with host-gw takes up to the 45 s that peers believe in the old one.
			mustWrite(t, a.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", MAC: eth0.MAC}})
		}},
	}
}

// uplinkOutage is the time from the end of the fault to the first packet of each family.
func uplinkOutage(t *testing.T, a, b *testNode, do func(*testing.T)) time.Duration {
	t.Helper()
	do(t)
	start := time.Now()
	for _, v6 := range []bool{false, true} {
		p := steadyProbe(t, a, b, v6)
		ok := false
		for range 3 { // 5 s each
			ok = ok || p.answers(1)
		}
		p.finish()
		if !ok {
			t.Fatalf("no packets (IPv6: %v) after 15 s", v6)
		}
	}
	return time.Since(start)
}

// TestFaultOverflow stops the agent until its socket has overflowed, and flushes its routes meanwhile: the news of that is lost.
func TestFaultOverflow(t *testing.T) {
	requireFaults(t)
	c := newCluster(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	for _, n := range c.nodes {
		n.start("--resync", "1h") // only the overflow can tell it
	}
	for _, n := range c.nodes {
		n.waitReady()
	}
	wantReach(t, a, b)
	before := kernelState(t, a)
	const counter = "podnet_agent_events_overflow_total"
	if got := a.metric(counter); got != counter+" 0" {
		t.Fatalf("%q", got)
	}
	_ = a.cmd.Process.Signal(syscall.SIGSTOP)
	flood(t, a, 40000)
	flush(t, a, rtnl.ProtocolVXLAN)
	flood(t, a, 1000)
	_ = a.cmd.Process.Signal(syscall.SIGCONT)
	start := time.Now()
	if !poll(15*time.Second, func() bool { return kernelState(t, a) == before }) {
		t.Fatalf("not as before:\n%s\nwas:\n%s", kernelState(t, a), before)
	}
	took(t, time.Since(start), 2*time.Second)
	if got := a.metric(counter); got == counter+" 0" {
		t.Errorf("no overflow: %q", got)
	}
	wantReach(t, a, b)
	_, body := a.get("/healthz")
	t.Logf("%s; %s", a.metric(counter), body)
}

// flood has the kernel announce as many changes of routes.
func flood(t *testing.T, n *testNode, count int) {
	t.Helper()
	ctx := context.Background()
	const batch = 500
	for done := 0; done < count; done += 2 * batch {
		for _, verb := range []rtnl.Verb{rtnl.Add, rtnl.Delete} {
			plan := make(rtnl.Plan, batch)
			for i := range plan {
				dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, byte(i >> 8), byte(i)}), 32)
				plan[i] = rtnl.Change{Verb: verb, Object: rtnl.Route{Dst: dst, Link: "lo", Scope: rtnl.ScopeLink, Protocol: rtnl.Protocol(99)}}
			}
			if err := errors.Join(n.conn.Write(ctx, plan)...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFaultSecondAgent: a second agent on a node is refused, whatever its state directory; a stranger who holds the name of the lock keeps nobody off.
func TestFaultSecondAgent(t *testing.T) {
	rtnltest.RequireKernel(t, "agents in network namespaces")
	c := newCluster(t, 2)
	a := c.nodes[0]
	a.start()
	a.waitReady()
	wantSecondRefused(t, a)
	run := func(flags ...string) (string, int) {
		cmd := a.command(append([]string{"--listen", ""}, flags...)...)
		var out []byte
		err := a.ns.Do(func() (err error) {
			out, err = cmd.CombinedOutput()
			return err
		})
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out), exit.ExitCode()
	}
	want := fmt.Sprintf("another podnet-agent (process %d) works in this network namespace", a.cmd.Process.Pid)
	for _, flags := range [][]string{nil, {"--cleanup"}} {
		out, status := run(append(flags, "--state-dir", a.path("other-state"))...)
		if status != exitFault || !strings.Contains(out, want) {
			t.Errorf("%v: status %d and %q, want %d and %q", flags, status, out, exitFault, want)
		}
	}
	if err := a.kill(syscall.SIGKILL); err == nil {
		t.Error("SIGKILL: no error")
	}

	stranger := stranger(t, a)
	a.start()
	a.waitReady()
	if stranger.ProcessState != nil {
		t.Error("the stranger has ended")
	}
}

// TestFaultPeerGoneMeanwhile: what the agent did not see go is gone before it says that it is ready.
func TestFaultPeerGoneMeanwhile(t *testing.T) {
	rtnltest.RequireKernel(t, "agents in network namespaces")
	c := newCluster(t, 3)
	a, b, third := c.nodes[0], c.nodes[1], c.nodes[2]
	for _, n := range c.nodes[:2] {
		n.start()
		n.waitReady()
	}
	wantReach(t, a, b)
	_ = a.kill(syscall.SIGKILL)
	if err := os.Remove(a.path("nodes", third.name+".yaml")); err != nil {
		t.Fatal(err)
	}
	unnoticed(t, a, b, func() {
		a.start()
		a.waitReady()
	})
	for _, v6 := range []bool{false, true} {
		for _, gone := range []netip.Addr{third.pod(v6), third.addr(v6)} {
			for line := range strings.Lines(kernelState(t, a)) {
				if strings.Contains(line, gone.String()+" ") || strings.HasPrefix(line, "route ") && strings.Contains(line, strings.TrimSuffix(third.pod(false).String(), ".10")+".0/24") {
					t.Errorf("left: %s", line)
				}
			}
		}
	}
}

// TestFaultKilled100 kills the agent a hundred times, half of them at any moment of its start, with packets under way.
func TestFaultKilled100(t *testing.T) {
	requireFaults(t)
	c := newCluster(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	for _, n := range c.nodes {
		n.start()
		n.waitReady()
	}
	wantReach(t, a, b)
	before := kernelState(t, a)
	unnoticed(t, a, b, func() {
		for i := range 100 {
			_ = a.kill(syscall.SIGKILL)
			a.start()
			if i%2 == 0 {
				a.waitReady()
			} else {
				time.Sleep(rand.N(150 * time.Millisecond)) // any moment
			}
		}
		a.waitReady()
	})
	if after := kernelState(t, a); after != before {
		t.Errorf("not as before:\n%s\nwas:\n%s", after, before)
	}
}

// strangerEnv makes this test binary a process that holds the name of the agents' lock.
const strangerEnv = "PODNET_TEST_STRANGER"

func TestStranger(t *testing.T) {
	if os.Getenv(strangerEnv) == "" {
		t.Skip("a process of TestFaultSecondAgent")
	}
	l, err := net.Listen("unix", "@podnet-agent")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("held")
	for err == nil {
		_, err = l.Accept()
	}
}

// stranger has an ordinary user hold the name of the lock in the node's network namespace.
func stranger(t *testing.T, n *testNode) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestStranger$")
	cmd.Env = append(os.Environ(), strangerEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	buf := make([]byte, 4)
	if _, err := io.ReadFull(out, buf); err != nil || string(buf) != "held" {
		t.Fatalf("stranger: %q, %v", buf, err)
	}
	return cmd
}
