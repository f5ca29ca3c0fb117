package main

import (
	"bufio"
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
	"github.com/podnet/podnet/test/vm/vmtest"
)

// asProxy in the environment has the test binary be podnet-proxy, so that the guest of test/vm needs no compiler.
const asProxy = "PODNET_TEST_IS_PROXY"

func TestMain(m *testing.M) {
	if os.Getenv(asProxy) == "1" {
		os.Unsetenv(asProxy)
		main()
	}
	os.Exit(m.Run())
}

// proxyCommand is podnet-proxy with arguments.
func proxyCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asProxy+"=1")
	return cmd
}

// patience is for changes that are to be seen. An emulated machine needs more.
func patience() time.Duration {
	if os.Getenv("PODNET_VM") == "1" {
		return 3 * time.Minute
	}
	return 10 * time.Second
}

// answerTime is how long one connection, or one answer, may take.
func answerTime() time.Duration { return patience() / 4 }

// bed is a node with servers, and a client outside. The servers' addresses, as of pods, are on the node's loopback device.
type bed struct {
	t            *testing.T
	dir          string
	node, client *rtnltest.Netns
	cmd          *exec.Cmd
	log          lockedBuffer
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

// Addresses of the test bed, by family.
var (
	nodeAddr   = map[bool]string{false: "192.168.1.1", true: "fd00:1::1"}
	clientAddr = map[bool]string{false: "192.168.1.2", true: "fd00:1::2"}
)

// pod returns the address of a server.
func pod(v6 bool, i int) string {
	if v6 {
		return fmt.Sprintf("fd00:244::%d", i)
	}
	return fmt.Sprintf("10.244.1.%d", i)
}

// eachMode runs a test in each mode; ipvs where the kernel has it.
func eachMode(t *testing.T, modes []string, run func(t *testing.T, mode string)) {
	rtnltest.RequireKernel(t, "a node in a network namespace")
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			if mode == "ipvs" {
				vmtest.RequireIPVS(t)
			}
			run(t, mode)
		})
	}
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, dir: t.TempDir(), node: rtnltest.NewNetns(t), client: rtnltest.NewNetns(t)}
	if err := os.Mkdir(b.path("services"), 0o700); err != nil {
		t.Fatal(err)
	}
	node, client := b.node.Conn(t), b.client.Conn(t)
	b.write(node, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "eth0", PeerNetns: b.client.Path()}}})
	b.write(client, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}})
	for _, v6 := range []bool{false, true} {
		bits, net := 24, "0.0.0.0/0"
		if v6 {
			bits, net = 64, "::/0"
		}
		b.write(node, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(netip.MustParseAddr(nodeAddr[v6]), bits), NoDAD: true}})
		b.write(client, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(netip.MustParseAddr(clientAddr[v6]), bits), NoDAD: true}},
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix(net), Gateway: netip.MustParseAddr(nodeAddr[v6]), Link: "eth0"}})
		// A node without a route to a ClusterIP cannot even try: its packets are translated after they are routed.
		b.write(node, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix(net), Gateway: netip.MustParseAddr(clientAddr[v6]), Link: "eth0"}})
		for i := 2; i <= 4; i++ {
			a := netip.MustParseAddr(pod(v6, i))
			b.write(node, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "lo", Prefix: netip.PrefixFrom(a, a.BitLen()), NoDAD: true}})
			b.serve(pod(v6, i))
		}
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		b.write(node, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: name, Value: "1"}})
	}
	t.Cleanup(func() {
		b.kill(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("log of the proxy:\n%s", b.log.String())
		}
	})
	return b
}

func (b *bed) path(elem ...string) string { return filepath.Join(append([]string{b.dir}, elem...)...) }

func (b *bed) write(c *rtnl.Conn, p ...rtnl.Change) {
	b.t.Helper()
	if err := errors.Join(c.Write(context.Background(), p)...); err != nil {
		b.t.Fatal(err)
	}
}

// serve answers at port 8080 over TCP and UDP with its address, the client's, and what the client sends.
func (b *bed) serve(addr string) {
	b.t.Helper()
	var l net.Listener
	var u net.PacketConn
	if err := b.node.Do(func() (err error) {
		if l, err = net.Listen("tcp", net.JoinHostPort(addr, "8080")); err == nil {
			u, err = net.ListenPacket("udp", net.JoinHostPort(addr, "8080"))
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	var all sync.WaitGroup
	b.t.Cleanup(func() { l.Close(); u.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewScanner(c); r.Scan(); {
					fmt.Fprintf(c, "%s %s %s\n", addr, c.RemoteAddr().(*net.TCPAddr).IP, r.Text())
				}
			}()
		}
	})
	all.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(fmt.Sprintf("%s %s %s", addr, from.(*net.UDPAddr).IP, buf[:n])), from)
		}
	})
}

// command is the proxy with the flags that all tests want.
func (b *bed) command(flags ...string) *exec.Cmd {
	b.t.Helper()
	args := []string{"--services", b.path("services"), "--hostname-override", "node-a", "--conntrack-max-per-core", "0", "--cluster-cidr", "10.244.0.0/16,fd00:244::/48", "-v", "4"}
	return proxyCommand(append(args, flags...)...)
}

func (b *bed) start(flags ...string) {
	b.t.Helper()
	b.launch(b.command(flags...))
}

// launch starts a proxy, on the node and with its log in b.
func (b *bed) launch(cmd *exec.Cmd) {
	b.t.Helper()
	b.cmd = cmd
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	if err := b.node.Do(b.cmd.Start); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) kill(s syscall.Signal) {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(s)
	err := b.cmd.Wait()
	b.cmd = nil
	if s == syscall.SIGTERM && err != nil {
		b.t.Errorf("the proxy ends with %v", err)
	}
}

// once runs the proxy to its end.
func (b *bed) once(flags ...string) (code int, out string) {
	b.t.Helper()
	cmd := b.command(flags...)
	var text []byte
	err := b.node.Do(func() (err error) {
		text, err = cmd.CombinedOutput()
		return err
	})
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

// describe writes a file of Services into place.
func (b *bed) describe(name, text string) {
	b.t.Helper()
	if err := errors.Join(os.WriteFile(b.path("new"), []byte(text), 0o600), os.Rename(b.path("new"), b.path("services", name))); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) remove(name string) {
	b.t.Helper()
	if err := os.Remove(b.path("services", name)); err != nil {
		b.t.Fatal(err)
	}
}

// ask asks a server from a namespace and returns who answered, and what client it saw.
func ask(from *rtnltest.Netns, network, to string) (server, client string, err error) {
	return askWithin(from, network, to, answerTime())
}

// silence is how long a packet that is dropped is waited for.
const silence = 2 * time.Second

func askWithin(from *rtnltest.Netns, network, to string, limit time.Duration) (server, client string, err error) {
	err = from.Do(func() error {
		c, err := net.DialTimeout(network, to, limit)
		if err != nil {
			return err
		}
		defer c.Close()
		server, client, err = question(c)
		return err
	})
	return server, client, err
}

// question asks over a connection.
func question(c net.Conn) (server, client string, err error) {
	if err := c.SetDeadline(time.Now().Add(answerTime())); err != nil {
		return "", "", err
	}
	if _, err := io.WriteString(c, "x\n"); err != nil {
		return "", "", err
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil {
		return "", "", err
	}
	f := strings.Fields(string(buf[:n]))
	if len(f) < 2 {
		return "", "", fmt.Errorf("answer %q", buf[:n])
	}
	return f[0], f[1], nil
}

// servers asks until n answers in a row came from nobody else than those wanted, and all of them.
func (b *bed) servers(from *rtnltest.Netns, network, to string, want ...string) {
	b.t.Helper()
	b.await(func() error {
		seen := map[string]bool{}
		for i := 0; i < 8*len(want) || i < 60 && len(seen) < len(want); i++ {
			server, _, err := ask(from, network, to)
			if err != nil {
				return err
			}
			seen[server] = true
		}
		for _, w := range want {
			if !seen[w] {
				return fmt.Errorf("%s %s: answers from %v, none from %s", network, to, seen, w)
			}
			delete(seen, w)
		}
		if len(seen) > 0 {
			return fmt.Errorf("%s %s: answers from %v, want only %v", network, to, seen, want)
		}
		return nil
	})
}

// unreachable waits until connections are refused, or silently dropped.
func (b *bed) unreachable(from *rtnltest.Netns, to string, want error) {
	b.t.Helper()
	b.await(func() error {
		limit := answerTime()
		if want == nil {
			limit = silence
		}
		server, _, err := askWithin(from, "tcp", to, limit)
		var timeout net.Error
		switch {
		case err == nil:
			return fmt.Errorf("%s: %s answers", to, server)
		case want == nil && errors.As(err, &timeout) && timeout.Timeout(), want != nil && errors.Is(err, want):
			return nil
		}
		return fmt.Errorf("%s: %w", to, err)
	})
}

func (b *bed) await(look func() error) {
	b.t.Helper()
	deadline := time.Now().Add(patience())
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// get asks the proxy over HTTP.
func (b *bed) get(url string) (code int, header http.Header, body string, err error) {
	err = b.node.Do(func() error {
		c, err := net.DialTimeout("tcp", strings.Split(strings.TrimPrefix(url, "http://"), "/")[0], time.Second)
		if err != nil {
			return err
		}
		client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		code, header, body = resp.StatusCode, resp.Header, string(data)
		return err
	})
	return code, header, body, err
}

// run runs a program in the node.
func (b *bed) run(name string, args ...string) string {
	b.t.Helper()
	var out []byte
	if err := b.node.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	}); err != nil {
		b.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
