package main

import (
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
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

// proxyHost is a node with a server in the place of a pod, and a client outside.
type proxyHost struct {
	*host
	client *rtnltest.Netns
}

const served = "10.244.1.2" // answers at port 8080

func newProxyHost(t *testing.T) *proxyHost {
	t.Helper()
	n := &proxyHost{&host{t: t, image: imageFiles(t, "podnet-proxy"), program: "podnet-proxy", dir: t.TempDir(), ns: rtnltest.NewNetns(t)}, rtnltest.NewNetns(t)}
	n.conn = n.ns.Conn(t)
	n.setDaemonSet(t, "../proxy/base/daemonset.yaml")
	config, err := os.ReadFile("../proxy/base/config.conf")
	if err != nil {
		t.Fatal(err)
	}
	// The maximum of connections belongs to the machine and cannot be set in another network namespace.
	n.write(t, "config/config.conf", string(config)+"conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 12h}\n")
	n.write(t, "config/services/web.yaml", "service: web\naddresses: [10.96.0.10]\nports: [{port: 80, targetPort: 8080, nodePort: 30080}]\nendpoints: ["+served+"]\n")
	to := func(c *rtnl.Conn, p ...rtnl.Change) {
		t.Helper()
		if err := errors.Join(c.Write(t.Context(), p)...); err != nil {
			t.Fatal(err)
		}
	}
	client := n.client.Conn(t)
	to(n.conn, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "eth0", PeerNetns: n.client.Path()}}})
	to(client, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "eth0", Up: rtnl.On}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.1.2/24")}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{Dst: netip.MustParsePrefix("10.96.0.0/12"), Gateway: netip.MustParseAddr("192.168.1.1"), Link: "eth0"}})
	to(n.conn, rtnl.Change{Verb: rtnl.Set, Object: rtnl.Link{Name: "lo", Up: rtnl.On}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.1.1/24")}},
		rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "lo", Prefix: netip.MustParsePrefix(served + "/32")}},
		rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}})
	var l net.Listener
	if err := n.ns.Do(func() (err error) { l, err = net.Listen("tcp", served+":8080"); return err }); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") })}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return n
}

func (n *proxyHost) write(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(n.path(name)), 0o755), os.WriteFile(n.path(name), []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// serves asks the server through a Service, from outside.
func (n *proxyHost) serves(address string) bool {
	err := n.client.Do(func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		text, err := io.ReadAll(c)
		if err == nil && !strings.HasSuffix(string(text), "here") {
			err = fmt.Errorf("answer %q", text)
		}
		return err
	})
	return err == nil
}

// container is the DaemonSet's with what the kubelet makes of its arguments, and with more of them.
func (n *proxyHost) container(args ...string) corev1.Container {
	c := *n.daemonSet.Spec.Template.Spec.Containers[0].DeepCopy()
	for i, a := range c.Args {
		c.Args[i] = strings.ReplaceAll(a, "$(NODE_NAME)", "node-a")
	}
	c.Args = append(c.Args, args...)
	return c
}

// without leaves out the lines that are to be there.
func without(log, expected string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, expected) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func wantClean(t *testing.T, log string) {
	t.Helper()
	for _, word := range []string{"not permitted", "read-only", "denied", "orbidden", "level=ERROR", "level=WARN"} {
		if strings.Contains(log, word) {
			t.Errorf("the log says %q:\n%s", word, log)
		}
	}
}

// TestProxyContainer runs podnet-proxy's image under runc exactly as its DaemonSet says, with a packet through a Service in each mode that this kernel has. Only the Services come from
// files; see TestProxyPod.
func TestProxyContainer(t *testing.T) {
	rtnltest.RequireKernel(t, "containers in a network namespace")
	requireRunc(t)
	n := newProxyHost(t)
	files := "--services=/etc/podnet-proxy/services"
	// ConfigMaps with items are mounted as they say; here the directory of Services is in it too.
	t.Run("without capabilities", func(t *testing.T) {
		less := n.container(files)
		less.SecurityContext.Capabilities.Add = nil
		out, err := n.runc(t, less, less.Args).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "not permitted") {
			t.Errorf("NET_ADMIN is not needed? %v\n%s", err, out)
		}
	})
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			out, stop := n.startAgent(t, n.container(files, "--mode="+mode))
			if !poll(20*time.Second, func() bool { return n.serves("10.96.0.10:80") && n.serves("192.168.1.1:30080") }) {
				t.Fatalf("no packet comes through\n%s", out.String())
			}
			var code int
			var text string
			for _, path := range []string{"/livez", "/healthz"} {
				if !poll(20*time.Second, func() bool {
					code, text = n.get(path)
					return code == http.StatusOK && strings.Contains(out.String(), "dataplane="+mode)
				}) {
					t.Errorf("%s: %d %s\n%s", path, code, text, out.String())
				}
			}
			if v, err := n.conn.Sysctl(t.Context(), "net/netfilter/nf_conntrack_tcp_timeout_established"); v != "43200" {
				t.Errorf("the node's settings are not set: %q, %v", v, err)
			}
			if msg, err := n.command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, msg)
			}
			if !poll(15*time.Second, func() bool { return n.serves("10.96.0.10:80") }) {
				t.Errorf("does not come back after a flush\n%s", out.String())
			}
			stop()
			wantClean(t, without(out.String(), "somebody else changed"))
			if !n.serves("10.96.0.10:80") {
				t.Error("without the proxy nothing is served")
			}
		})
	}
	t.Run("cleanup", func(t *testing.T) {
		n.setDaemonSet(t, "../proxy/cleanup/daemonset.yaml")
		c := n.daemonSet.Spec.Template.Spec.InitContainers[0]
		if out, err := n.runc(t, c, c.Args).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if out, err := n.command("nft", "list", "ruleset").Output(); err != nil || strings.Contains(strings.ToLower(string(out)), "podnet") {
			t.Errorf("left, %v:\n%s", err, out)
		}
	})
}

// TestProxyImageTools: what --cleanup-kube-proxy and mode iptables call is in the image, with its libraries and plugins, in both variants.
func TestProxyImageTools(t *testing.T) {
	rtnltest.RequireKernel(t, "containers in a network namespace")
	image := imageFiles(t, "podnet-proxy")
	ns := rtnltest.NewNetns(t)
	for _, name := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "iptables"} {
		rule := []string{"-t", "nat", "-A", "OUTPUT", "-m", "comment", "--comment", "x", "-m", "statistic", "--mode", "random", "--probability", "0.5", "-j", "RETURN"}
		for _, args := range [][]string{append([]string{"/usr/sbin/" + name}, rule...), {"/usr/sbin/" + name + "-save", "-t", "nat"}} {
			cmd := exec.Command("nsenter", append([]string{"--net=" + ns.Path(), "chroot", image}, args...)...)
			cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "XTABLES_LOCKFILE=/lock"} // the pod mounts /run/xtables.lock
			out, err := cmd.CombinedOutput()
			if err != nil && strings.Contains(name, "legacy") && strings.Contains(string(out), "does not exist") {
				t.Logf("this kernel has no iptables-legacy: %s", out)
				break
			}
			if err != nil || strings.HasSuffix(args[0], "-save") && !strings.Contains(string(out), "statistic") {
				t.Errorf("%v: %v\n%s", args, err, out)
			}
		}
	}
}

// TestProxyPod is TestProxyContainer with nothing changed: Services, configuration and identity as a kubelet gives them to the pod, on a real API server with the shipped RBAC.
func TestProxyPod(t *testing.T) {
	rtnltest.RequireKernel(t, "a container in a network namespace")
	requireRunc(t)
	controlplanetest.Binaries(t)
	n := newProxyHost(t)
	plane := controlplanetest.Start(t, controlplane.Config{Netns: n.ns.Path()})
	ctx, admin := t.Context(), plane.Admin()
	if out, err := plane.Kubectl(ctx, nil, "apply", "-k", "../proxy/base"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	do := func(path string, o object) {
		t.Helper()
		if err := admin.Do(ctx, http.MethodPost, path, o, nil); err != nil {
			t.Fatal(err)
		}
	}
	do("/api/v1/nodes", object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": "node-a"}})
	if err := admin.Do(ctx, http.MethodPatch, "/api/v1/nodes/node-a/status", object{"status": object{"addresses": []object{{"type": "InternalIP", "address": "192.168.1.1"}}}}, nil); err != nil {
		t.Fatal(err)
	}
	do("/api/v1/namespaces/default/services", object{"apiVersion": "v1", "kind": "Service", "metadata": object{"name": "web"}, "spec": object{
		"type": "NodePort", "clusterIP": "10.96.0.10", "externalIPs": []string{"203.0.113.7"}, "ports": []object{{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}}}})
	do("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", object{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata": object{"name": "web-1", "labels": object{"kubernetes.io/service-name": "web"}}, "ports": []object{{"name": "http", "port": 8080, "protocol": "TCP"}},
		"endpoints": []object{{"addresses": []string{served}, "nodeName": "node-a"}}})
	n.account(t, plane, "kube-system", "podnet-proxy")
	out, stop := n.startAgent(t, n.container())
	defer stop()
	if !poll(30*time.Second, func() bool { return n.serves("10.96.0.10:80") && n.serves("192.168.1.1:30080") }) {
		t.Fatalf("no packet comes through\n%s", out.String())
	}
	told := func() bool { // the external IP is not allowed, which the Service is told
		var list struct{ Items []struct{ Message string } }
		if err := admin.Do(ctx, http.MethodGet, "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=web", nil, &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Items) > 0
	}
	if !poll(10*time.Second, told) {
		t.Errorf("there is no Event\n%s", out.String())
	}
	stop()
	wantClean(t, without(out.String(), "203.0.113.7"))
}
