package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// agentBinary builds the real thing, once.
var agentBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "podnet-agent-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "podnet-agent")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return path, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := agentBinary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// testCluster is a switch with nodes, each a network namespace.
type testCluster struct {
	t      *testing.T
	dir    string
	fabric *rtnltest.Netns
	nodes  []*testNode
}

// testNode is one node. Its "pods" are two addresses on its loopback device.
type testNode struct {
	*testCluster
	ns    *rtnltest.Netns
	conn  *rtnl.Conn
	index int
	name  string
	cmd   *exec.Cmd
	log   lockedBuffer
	pods  map[bool]netip.Addr // where they are not those that the index says: IPv6 or not
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const testListen = "127.0.0.1:10270"

func newCluster(t *testing.T, nodes int) *testCluster {
	t.Helper()
	c := &testCluster{t: t, dir: t.TempDir(), fabric: rtnltest.NewNetns(t)}
	if err := os.Mkdir(c.path("nodes"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.netConf("vxlan", "10.244.0.0/16")
	mustWrite(t, c.fabric.Conn(t), rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "br0", Kind: rtnl.KindBridge, Up: rtnl.On}})
	for i := range nodes {
		n := &testNode{testCluster: c, ns: rtnltest.NewNetns(t), index: i + 1, name: fmt.Sprintf("node-%d", i+1)}
		n.conn = n.ns.Conn(t)
		c.nodes = append(c.nodes, n)
		n.plug()
		mustWrite(t, n.conn,
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "lo", Prefix: netip.PrefixFrom(n.pod(false), 32)}},
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "lo", Prefix: netip.PrefixFrom(n.pod(true), 128), NoDAD: true}})
		n.describe()
		t.Cleanup(func() {
			n.kill(syscall.SIGKILL)
			if t.Failed() {
				t.Logf("log of %s:\n%s", n.name, n.log.String())
			}
		})
	}
	return c
}

func (c *testCluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

func (c *testCluster) netConf(backend, network string) {
	c.t.Helper()
	write(c.t, c.path("net-conf.json"), `{"Network": "`+network+`", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "`+backend+`"}}`)
}

// plug gives the node its uplink.
func (n *testNode) plug() {
	n.t.Helper()
	port := fmt.Sprintf("port%d", n.index)
	mustWrite(n.t, n.fabric.Conn(n.t),
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: port, Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "eth0", PeerNetns: n.ns.Path()}}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: port, Master: "br0"}})
	mustWrite(n.t, n.conn,
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(n.addr(false), 24)}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(n.addr(true), 64), NoDAD: true}})
}

func mustWrite(t testing.TB, c *rtnl.Conn, p ...rtnl.Change) {
	t.Helper()
	if err := errors.Join(c.Write(context.Background(), p)...); err != nil {
		t.Fatal(err)
	}
}

func (n *testNode) addr(v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:192::%d", n.index))
	}
	return netip.MustParseAddr(fmt.Sprintf("192.168.1.%d", n.index))
}

func (n *testNode) pod(v6 bool) netip.Addr {
	if a, ok := n.pods[v6]; ok {
		return a
	}
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:244:0:%d::10", n.index))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.244.%d.10", n.index))
}

func (n *testNode) descriptor() string {
	return fmt.Sprintf("name: %s\npodCIDRs: [10.244.%d.0/24, 'fd00:244:0:%d::/64']\naddresses: ['%s', '%s']\n", n.name, n.index, n.index, n.addr(false), n.addr(true))
}

// describe writes the node's descriptor as an operator should: by rename.
func (n *testNode) describe() {
	n.t.Helper()
	n.describeAs(n.descriptor())
}

func (n *testNode) describeAs(text string) {
	n.t.Helper()
	path := n.path("nodes", n.name+".yaml")
	write(n.t, n.path("nodes", ".tmp"), text)
	if err := os.Rename(n.path("nodes", ".tmp"), path); err != nil {
		n.t.Fatal(err)
	}
}

// command is the agent's, with the flags of this node.
func (n *testNode) command(flags ...string) *exec.Cmd {
	n.t.Helper()
	binary, err := agentBinary()
	if err != nil {
		n.t.Fatal(err)
	}
	return exec.Command(binary, append([]string{"--node-name", n.name, "--nodes", n.path("nodes"), "--net-conf", n.path("net-conf.json"),
		"--subnet-file", n.path(n.name, "subnet.env"), "--cni-conf-dir", n.path(n.name, "net.d"), "--state-dir", n.path(n.name, "state"),
		"--listen", testListen}, flags...)...)
}

func (n *testNode) start(flags ...string) {
	n.t.Helper()
	n.cmd = n.command(flags...)
	n.cmd.Stdout, n.cmd.Stderr = &n.log, &n.log
	if err := n.ns.Do(n.cmd.Start); err != nil {
		n.t.Fatal(err)
	}
}

// kill sends a signal and waits for the end.
func (n *testNode) kill(sig syscall.Signal) error {
	if n.cmd == nil {
		return nil
	}
	_ = n.cmd.Process.Signal(sig)
	err := n.cmd.Wait()
	n.cmd = nil
	return err
}

// get asks the agent over HTTP.
func (n *testNode) get(path string) (int, string) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = n.ns.Do(func() error {
				conn, err = net.Dial(network, address)
				return err
			})
			return conn, err
		}}}
	r, err := client.Get("http://" + testListen + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error()
	}
	return r.StatusCode, string(body)
}

func (n *testNode) waitReady() {
	n.t.Helper()
	var last string
	if !poll(20*time.Second, func() bool {
		var code int
		code, last = n.get("/readyz")
		return code == http.StatusOK
	}) {
		n.t.Fatalf("%s is not ready: %s", n.name, last)
	}
}

// metric returns the line of /metrics that begins with name.
func (n *testNode) metric(name string) string {
	_, body := n.get("/metrics")
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, name) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func poll(limit time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(limit); !ok(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}

// probe sends numbered packets from one node's pod to another's and back, 1,000 a second.
type probe struct {
	t            *testing.T
	conn, server net.PacketConn
	stop         chan struct{}
	sender       sync.WaitGroup
	receivers    sync.WaitGroup

	mu   sync.Mutex
	sent []time.Time
	back map[int]bool
}

func startProbe(t *testing.T, from, to *testNode, v6 bool) *probe {
	t.Helper()
	return startProbeBetween(t, endpoint{from.ns, from.pod(v6)}, endpoint{to.ns, to.pod(v6)})
}

// endpoint is an address in a network namespace.
type endpoint struct {
	ns   *rtnltest.Netns
	addr netip.Addr
}

func startProbeBetween(t *testing.T, from, to endpoint) *probe {
	t.Helper()
	p := &probe{t: t, stop: make(chan struct{}), back: map[int]bool{}}
	listen := func(e endpoint, port int) (c net.PacketConn) {
		err := e.ns.Do(func() (err error) {
			c, err = net.ListenPacket("udp", netip.AddrPortFrom(e.addr, uint16(port)).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	p.conn, p.server = listen(from, 0), listen(to, 7007)
	p.receivers.Go(func() { // the echo
		buf := make([]byte, 64)
		for {
			n, peer, err := p.server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.server.WriteTo(buf[:n], peer)
		}
	})
	p.receivers.Go(func() {
		buf := make([]byte, 64)
		for {
			n, _, err := p.conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var seq int
			if _, err := fmt.Sscan(string(buf[:n]), &seq); err == nil {
				p.mu.Lock()
				p.back[seq] = true
				p.mu.Unlock()
			}
		}
	})
	target := net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.addr, 7007))
	p.sender.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for seq := 0; ; seq++ {
			select {
			case <-p.stop:
				return
			case <-tick.C:
			}
			p.mu.Lock()
			p.sent = append(p.sent, time.Now())
			p.mu.Unlock()
			_, _ = p.conn.WriteTo([]byte(fmt.Sprint(seq)), target) // a refused one counts as lost
		}
	})
	return p
}

// answers waits until as many packets more have been answered.
func (p *probe) answers(more int) bool {
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.back)
	}
	before := count()
	return poll(5*time.Second, func() bool { return count() >= before+more })
}

// finish stops the probe and returns how many packets were sent and lost, and the longest time without an answer.
func (p *probe) finish() (sent, lost int, outage time.Duration) {
	close(p.stop)
	p.sender.Wait()
	poll(200*time.Millisecond, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.back[len(p.sent)-1]
	})
	p.conn.Close()
	p.server.Close()
	p.receivers.Wait()
	var last time.Time
	for seq, at := range p.sent {
		switch {
		case last.IsZero():
			last = at
		case p.back[seq]:
			last = at
		default:
			lost++
			outage = max(outage, at.Sub(last))
		}
	}
	return len(p.sent), lost, outage
}

// reach sends until the first answer comes back.
func reach(from, to *testNode, v6 bool) bool {
	p := startProbe(from.t, from, to, v6)
	ok := p.answers(1)
	p.finish()
	return ok
}

func wantReach(t *testing.T, from, to *testNode) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		if !reach(from, to, v6) {
			t.Errorf("%s does not reach %s (IPv6: %v)", from.name, to.name, v6)
		}
	}
}
