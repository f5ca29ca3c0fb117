package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

const web = `
service: web
addresses: [10.96.0.10, "fd00:96::a"]
loadBalancerIPs: [203.0.113.1]
externalIPs: [203.0.113.7, 203.0.114.7]
ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30080}, {name: udp, protocol: UDP, port: 80, targetPort: 8080}]
endpoints: [%s]
`

// describeWeb describes the Service with the given endpoints of both families.
func (b *bed) describeWeb(pods ...int) {
	var e []string
	for _, i := range pods {
		e = append(e, pod(false, i), `"`+pod(true, i)+`"`)
	}
	b.describe("web.yaml", fmt.Sprintf(web, strings.Join(e, ", ")))
}

// TestFiles runs the real binary on a node, without Kubernetes, and does to it what happens in real life.
func TestFiles(t *testing.T) {
	eachMode(t, []string{"nftables", "iptables", "ipvs"}, func(t *testing.T, mode string) {
		b := newBed(t)
		b.describeWeb(2, 3)
		flags := []string{"--mode", mode, "--external-ip-cidrs", "203.0.113.0/24", "--nodeport-addresses", "192.168.1.0/24,fd00:1::/64"}
		b.start(flags...)
		for _, step := range []struct {
			name string
			run  func(*testing.T, *bed)
		}{
			{"packets", wantPackets},
			{"http", func(t *testing.T, b *bed) { wantHTTP(t, b, mode) }},
			{"second proxy", wantSecondRefused},
			{"endpoints change", wantEndpointsFollowed},
			{"stale UDP flows", wantStaleFlowsDeleted},
			{"health check", wantHealthCheck},
			{"broken description", wantBrokenKept},
			{"restarts", func(t *testing.T, b *bed) { wantRestartsUnnoticed(t, b, flags) }},
			{"heals", wantHeals}, // last: connections that were tried without rules are remembered as untranslated
			{"cleanup", wantCleanup},
		} {
			if !t.Run(step.name, func(t *testing.T) { b.t = t; step.run(t, b) }) {
				return
			}
		}
	})
}

func wantPackets(t *testing.T, b *bed) {
	for _, from := range []*rtnltest.Netns{b.client, b.node} {
		b.servers(from, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
		b.servers(from, "tcp", "[fd00:96::a]:80", pod(true, 2), pod(true, 3))
		b.servers(from, "udp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
		b.servers(from, "tcp", "203.0.113.1:80", pod(false, 2), pod(false, 3))
		b.servers(from, "tcp", "203.0.113.7:80", pod(false, 2), pod(false, 3))
		b.servers(from, "tcp", "192.168.1.1:30080", pod(false, 2), pod(false, 3))
		b.servers(from, "tcp", "[fd00:1::1]:30080", pod(true, 2), pod(true, 3))
	}
	if server, _, err := askWithin(b.client, "tcp", "203.0.114.7:80", silence); err == nil {
		t.Errorf("an external IP that is not allowed is served by %s", server)
	}
	if want := "is not in the ranges that are allowed for external IPs"; !strings.Contains(b.log.String(), want) {
		t.Errorf("the log does not say %q", want)
	}
}

func wantHTTP(t *testing.T, b *bed, mode string) {
	for _, path := range []string{"/healthz", "/livez"} {
		code, header, body, err := b.get("http://127.0.0.1:10256" + path)
		if err != nil || code != 200 || header.Get("Content-Type") != "application/json" || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, %v, %v", path, code, header, err)
		}
		want := regexp.MustCompile(`^{"lastUpdated":"20[^"]+","currentTime":"20[^"]+",("nodeEligible":true,)?"healthy":true,"status":{"IPv4":{"lastUpdated":"20[^"]+","healthy":true},"IPv6":{"lastUpdated":"20[^"]+","healthy":true}}}$`)
		if !want.MatchString(body) || strings.Contains(body, "nodeEligible") != (path == "/healthz") {
			t.Errorf("%s: %s", path, body)
		}
	}
	_, _, body, err := b.get("http://127.0.0.1:10249/metrics")
	for _, want := range []string{`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`, `kubeproxy_proxy_healthz_total{code="200"} 1`, "podnet_proxy_services 1", "podnet_proxy_services_faulty 1"} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics have no %s (%v)", want, err)
		}
	}
	if _, _, body, err := b.get("http://127.0.0.1:10249/proxyMode"); body != mode {
		t.Errorf("proxyMode %q, %v", body, err)
	}
	var config map[string]struct{ Kind string }
	if _, _, body, err := b.get("http://127.0.0.1:10249/configz"); json.Unmarshal([]byte(body), &config) != nil || config["kubeproxy.config.k8s.io"].Kind != "KubeProxyConfiguration" {
		t.Errorf("configz: %s, %v", body, err)
	}
}

func wantSecondRefused(t *testing.T, b *bed) {
	code, out := b.once()
	if want := fmt.Sprintf("another podnet-proxy (process %d) works in this network namespace", b.cmd.Process.Pid); code != exitFault || !strings.Contains(out, want) {
		t.Errorf("status %d and %q, want %d and %q", code, out, exitFault, want)
	}
}

// wantEndpointsFollowed: while endpoints come and go, no connection fails.
func wantEndpointsFollowed(t *testing.T, b *bed) {
	load := b.load("10.96.0.10:80")
	for range 5 {
		b.describeWeb(3, 4)
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 3), pod(false, 4))
		b.describeWeb(2, 3, 4)
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3), pod(false, 4))
		b.describeWeb(2)
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2))
		b.servers(b.client, "tcp", "[fd00:96::a]:80", pod(true, 2))
	}
	load()
	b.describeWeb()
	b.unreachable(b.client, "10.96.0.10:80", syscall.ECONNREFUSED)
	b.unreachable(b.node, "192.168.1.1:30080", syscall.ECONNREFUSED)
	b.describeWeb(2, 3)
	b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
}

// load connects over and over until the returned function is called, which fails the test if one connection failed, or one SYN had to be sent twice.
func (b *bed) load(to string) (stop func()) {
	t := b.t
	var quit atomic.Bool
	var n, failed atomic.Int64
	var first atomic.Value
	var all sync.WaitGroup
	lost := b.synRetransmits()
	all.Go(func() {
		for !quit.Load() {
			n.Add(1)
			if _, _, err := ask(b.client, "tcp", to); err != nil {
				failed.Add(1)
				first.CompareAndSwap(nil, err.Error())
			}
		}
	})
	return func() {
		t.Helper()
		quit.Store(true)
		all.Wait()
		lost = b.synRetransmits() - lost
		slow := os.Getenv("PODNET_VM") == "1" // an emulated machine may not answer in time
		if failed.Load() > 0 || n.Load() == 0 || lost > 0 && !slow {
			t.Errorf("%d of %d connections failed, the first with %v; %d lost a SYN", failed.Load(), n.Load(), first.Load(), lost)
		}
		t.Logf("%d connections", n.Load())
	}
}

// synRetransmits returns how many SYNs the client has sent again.
func (b *bed) synRetransmits() (n int) {
	b.t.Helper()
	if err := b.client.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			if at := slices.Index(names, "TCPSynRetrans"); at >= 0 && at < len(values) {
				n, err = strconv.Atoi(values[at])
			}
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// wantStaleFlowsDeleted: a client that keeps its UDP socket gets another server when its own is gone.
func wantStaleFlowsDeleted(t *testing.T, b *bed) {
	b.describeWeb(2)
	b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2))
	var c net.Conn
	if err := b.client.Do(func() (err error) { c, err = net.Dial("udp", "10.96.0.10:80"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered := func(want string) {
		t.Helper()
		b.await(func() error {
			server, _, err := question(c)
			if err == nil && server != want {
				err = fmt.Errorf("%s answers, want %s", server, want)
			}
			return err
		})
	}
	answered(pod(false, 2))
	b.describeWeb(3)
	answered(pod(false, 3))
	b.describeWeb()
	b.await(func() error {
		if server, _, err := question(c); err == nil {
			return fmt.Errorf("%s answers", server)
		}
		return nil
	})
	b.describeWeb(2, 3)
	b.await(func() error { _, _, err := question(c); return err })
}

func wantHealthCheck(t *testing.T, b *bed) {
	const text = "service: shop/lb\naddresses: [10.96.0.11]\nloadBalancerIPs: [203.0.113.2]\nexternalTrafficPolicy: Local\nhealthCheckNodePort: 31000\nports: [{port: 80, targetPort: 8080}]\nendpoints: [{address: 10.244.1.2, node: %s}, {address: 10.244.1.3, node: node-b}]\n"
	check := func(want int, weight string) {
		t.Helper()
		b.await(func() error {
			code, header, body, err := b.get("http://192.168.1.1:31000/")
			if err != nil {
				return err
			}
			wantBody := fmt.Sprintf("{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"lb\"\n\t},\n\t\"localEndpoints\": %s,\n\t\"serviceProxyHealthy\": true\n}", weight)
			if code != want || header.Get("X-Load-Balancing-Endpoint-Weight") != weight || body != wantBody {
				return fmt.Errorf("%d, %v, %s; want %d, weight %s", code, header, body, want, weight)
			}
			return nil
		})
	}
	b.describe("lb.yaml", fmt.Sprintf(text, "node-a"))
	check(200, "1")
	if _, client, err := ask(b.client, "tcp", "203.0.113.2:80"); err != nil || client != clientAddr[false] {
		t.Errorf("the server sees %s, %v; want the client's address", client, err)
	}
	b.describe("lb.yaml", fmt.Sprintf(text, "node-c"))
	check(503, "0")
	b.unreachable(b.client, "203.0.113.2:80", nil) // dropped
	b.remove("lb.yaml")
	b.await(func() error {
		if code, _, _, err := b.get("http://192.168.1.1:31000/"); err == nil {
			return fmt.Errorf("%d: the port is open yet", code)
		}
		return nil
	})
}

func wantBrokenKept(t *testing.T, b *bed) {
	b.describe("broken.yaml", "service: default/other\naddresses: [10.96.0.999]\nports: [{port: 80}]\n")
	b.describe("web.yaml", "service: web\nadresses: [10.96.0.10]\n")
	b.await(func() error {
		for _, want := range []string{`broken.yaml:1: Service default/other: addresses \"10.96.0.999\": want an IP address`, `web.yaml:1: Service default/web: unknown field \"adresses\"`} {
			if !strings.Contains(b.log.String(), want) {
				return fmt.Errorf("the log does not say %s", want)
			}
		}
		return nil
	})
	b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
	b.remove("broken.yaml")
	b.describeWeb(2, 3)
}

// wantHeals: somebody flushes everything.
func wantHeals(t *testing.T, b *bed) {
	for range 3 {
		b.run("nft", "flush", "ruleset")
		start := time.Now()
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
		t.Logf("served again %v after nft flush ruleset", time.Since(start).Round(time.Millisecond))
	}
}

// wantRestartsUnnoticed: neither a connection that lasts nor new ones see that the proxy is restarted, or killed.
func wantRestartsUnnoticed(t *testing.T, b *bed, flags []string) {
	var lasting net.Conn
	if err := b.client.Do(func() (err error) { lasting, err = net.Dial("tcp", "10.96.0.10:80"); return err }); err != nil {
		t.Fatal(err)
	}
	defer lasting.Close()
	load := b.load("10.96.0.10:80")
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		b.kill(s)
		if _, _, err := question(lasting); err != nil {
			t.Errorf("without a proxy: %v", err)
		}
		b.start(flags...)
		b.await(func() error {
			code, _, _, err := b.get("http://127.0.0.1:10256/healthz")
			if err == nil && code != 200 {
				err = fmt.Errorf("healthz %d", code)
			}
			return err
		})
		b.describeWeb(3)
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 3))
		b.describeWeb(2, 3)
		b.servers(b.client, "tcp", "10.96.0.10:80", pod(false, 2), pod(false, 3))
	}
	load()
	if _, _, err := question(lasting); err != nil {
		t.Errorf("the lasting connection: %v", err)
	}
}

func wantCleanup(t *testing.T, b *bed) {
	b.run("nft", "add table ip mine")
	b.kill(syscall.SIGTERM)
	if code, out := b.once("--cleanup"); code != exitOK {
		t.Fatalf("status %d: %s", code, out)
	}
	got := b.run("nft", "list", "ruleset")
	if strings.Contains(strings.ToLower(got), "podnet") || !strings.Contains(got, "table ip mine") {
		t.Errorf("left:\n%s", got)
	}
	if servers, err := os.ReadFile("/proc/net/ip_vs"); err == nil && strings.Contains(string(servers), "TCP ") {
		t.Errorf("left:\n%s", servers)
	}
	if code, out := b.once("--cleanup"); code != exitOK {
		t.Errorf("a second cleanup: status %d: %s", code, out)
	}
}
