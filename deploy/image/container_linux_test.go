package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// TestContainer runs the image's files under runc exactly as the DaemonSet says: capabilities, read-only root, no new privileges, mounts, arguments, the
// system calls that RuntimeDefault forbids. Only the nodes come from files instead of the API server; see TestPod.
func TestContainer(t *testing.T) {
	rtnltest.RequireKernel(t, "containers in a network namespace")
	requireRunc(t)
	image := imageFiles(t, "podnet-agent", "podnet-cni")
	n := newHost(t, image)

	t.Run("install", func(t *testing.T) {
		c := n.daemonSet.Spec.Template.Spec.InitContainers[0]
		for _, want := range []string{"installed /opt/cni/bin/podnet-cni\n", "nothing to do\n"} {
			if out, err := n.runc(t, c, c.Args).CombinedOutput(); err != nil || string(out) != want {
				t.Fatalf("%q, %v, want %q", out, err, want)
			}
		}
		want, err := os.ReadFile(filepath.Join(image, "podnet-cni"))
		if err != nil {
			t.Fatal(err)
		}
		if have, err := os.ReadFile(n.path("/opt/cni/bin/podnet-cni")); err != nil || !bytes.Equal(have, want) {
			t.Errorf("the plugin differs from the image's, %v", err)
		}
	})

	agent := *n.daemonSet.Spec.Template.Spec.Containers[0].DeepCopy()
	agent.Args = append(agent.Args, "--node-name=node-a", "--nodes=/etc/podnet/nodes")
	t.Run("agent without capabilities", func(t *testing.T) {
		less := *agent.DeepCopy()
		less.SecurityContext.Capabilities.Add = nil
		out, stop := n.startAgent(t, less)
		defer stop()
		var code int
		var text string
		if !poll(20*time.Second, func() bool {
			code, text = n.get("/readyz")
			return strings.Contains(out.String(), "not permitted")
		}) || code == http.StatusOK {
			t.Errorf("NET_ADMIN is not needed? %d %s\n%s", code, text, out.String())
		}
	})
	t.Run("agent", func(t *testing.T) {
		out, stop := n.startAgent(t, agent)
		var code int
		var text string
		ready := func() bool {
			code, text = n.get("/readyz")
			return code == http.StatusOK
		}
		if !poll(20*time.Second, ready) {
			t.Fatalf("not ready: %d %s\n%s", code, text, out.String())
		}
		n.wantNetwork(t)
		if msg, err := n.command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, msg)
		}
		if !poll(10*time.Second, func() bool { return n.rules() >= 2 }) {
			t.Errorf("masquerading does not come back\n%s", out.String())
		}
		stop()
		for _, word := range []string{"not permitted", "read-only", "denied", "level=ERROR", "level=WARN"} {
			if strings.Contains(out.String(), word) {
				t.Errorf("the log says %q:\n%s", word, out.String())
			}
		}
		if entries, err := os.ReadDir(n.path("/var/lib/podnet")); err != nil || len(entries) == 0 {
			t.Errorf("state directory: %v, %v", entries, err)
		}
	})
	t.Run("uninstall", func(t *testing.T) { n.uninstall(t) })
}

func requireRunc(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("runc is not here (Debian: apt-get install runc)")
	}
}

// imageFiles makes what the Dockerfile makes of programs, the first of which names the image, with this machine's nft or iptables; or takes the directory in PODNET_IMAGE,
// which holds the files of built images.
func imageFiles(t *testing.T, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	if given := os.Getenv("PODNET_IMAGE"); given != "" {
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(given, programs[0]))); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	lock := map[string]string{"podnet-agent": "nft.lock", "podnet-proxy": "iptables.lock"}[programs[0]]
	_, files, err := readLock(lock, "amd64")
	if err == nil {
		err = copyFiles("/", dir, files)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%v (Debian: apt-get install nftables iptables)", err)
	} else if err != nil {
		t.Fatal(err)
	}
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	build := exec.Command("go", args...)
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// host is a node: a network namespace, and a directory for its paths.
type host struct {
	t         *testing.T
	image     string // directory of its files
	program   string // its entry point
	dir       string
	ns        *rtnltest.Netns
	conn      *rtnl.Conn
	daemonSet appsv1.DaemonSet
	env       []string // besides PATH
	token     string   // directory of the service account; "" = none
	count     int
}

func newHost(t *testing.T, image string) *host {
	t.Helper()
	n := &host{t: t, image: image, program: "podnet-agent", dir: t.TempDir(), ns: rtnltest.NewNetns(t)}
	n.conn = n.ns.Conn(t)
	n.setDaemonSet(t, "../base/daemonset.yaml")
	netConf, err := os.ReadFile("../overlays/dual-stack/net-conf.json")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"net-conf.json": string(netConf)}
	for i, name := range []string{"node-a", "node-b"} {
		files["nodes/"+name+".yaml"] = fmt.Sprintf("name: %s\npodCIDRs: [10.244.%d.0/24, 'fd00:10:244:%d::/64']\naddresses: [192.168.1.%d, 'fd00:192::%d']\n", name, i+1, i+1, i+1, i+1)
	}
	if err := os.MkdirAll(n.path("config/nodes"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(n.path("config/"+name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plan := rtnl.Plan{
		{Verb: rtnl.Set, Object: rtnl.Link{Name: "lo", Up: rtnl.On}},
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindBridge, Up: rtnl.On}},
		{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.1.1/24")}},
		{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("fd00:192::1/64"), NoDAD: true}},
		{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "0"}},
	}
	for _, err := range n.conn.Write(t.Context(), plan) {
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// setDaemonSet reads a manifest and makes the host's paths in it.
func (n *host) setDaemonSet(t *testing.T, path string) {
	t.Helper()
	n.daemonSet = readDaemonSet(t, path)
	for _, v := range n.daemonSet.Spec.Template.Spec.Volumes {
		if v.HostPath == nil {
			continue
		}
		path := n.path(v.HostPath.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		err := os.MkdirAll(path, 0o755)
		if *v.HostPath.Type == corev1.HostPathFileOrCreate {
			err = errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func readDaemonSet(t *testing.T, path string) (d appsv1.DaemonSet) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (n *host) path(p string) string { return filepath.Join(n.dir, p) }

// command runs on the node.
func (n *host) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + n.ns.Path(), name}, args...)...)
}

func (n *host) rules() int {
	out, _ := n.command("nft", "list", "ruleset").Output()
	return strings.Count(string(out), "masquerade")
}

// get asks the program's health.
func (n *host) get(path string) (int, string) {
	port := map[string]string{"podnet-agent": "10270", "podnet-proxy": "10256"}[n.program]
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (c net.Conn, err error) {
			err = n.ns.Do(func() error {
				c, err = net.Dial(network, address)
				return err
			})
			return c, err
		}}}
	r, err := client.Get("http://127.0.0.1:" + port + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error()
	}
	return r.StatusCode, string(text)
}

// wantNetwork checks what the agent has to reach through its container.
func (n *host) wantNetwork(t *testing.T) {
	t.Helper()
	for name, want := range map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"} {
		if v, err := n.conn.Sysctl(t.Context(), name); v != want || err != nil {
			t.Errorf("%s is %q, %v", name, v, err)
		}
	}
	routes, err := n.conn.Routes(t.Context(), rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
	if err != nil || len(routes) != 2 {
		t.Errorf("routes: %v, %v", routes, err)
	}
	if n.rules() < 2 {
		t.Error("no masquerading")
	}
	for path, mode := range map[string]os.FileMode{"/run/podnet/subnet.env": 0o644, "/etc/cni/net.d/10-podnet.conflist": 0o600} {
		if info, err := os.Stat(n.path(path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

// uninstall runs the containers of the DaemonSet that removes everything.
func (n *host) uninstall(t *testing.T) {
	t.Helper()
	n.daemonSet = readDaemonSet(t, "../uninstall/daemonset.yaml")
	pod := n.daemonSet.Spec.Template.Spec
	if out, err := n.runc(t, pod.InitContainers[0], pod.InitContainers[0].Args).CombinedOutput(); err != nil {
		t.Fatalf("cleanup: %v: %s", err, out)
	}
	args := slices.DeleteFunc(slices.Clone(pod.Containers[0].Args), func(a string) bool { return a == "--stay" })
	if out, err := n.runc(t, pod.Containers[0], args).CombinedOutput(); err != nil || string(out) != "removed /opt/cni/bin/podnet-cni\n" {
		t.Fatalf("uninstall: %v: %s", err, out)
	}
	routes, err := n.conn.Routes(t.Context(), rtnl.RouteFilter{Protocol: rtnl.ProtocolVXLAN})
	if err != nil || len(routes) != 0 || n.rules() != 0 {
		t.Errorf("left: routes %v, %d rules, %v", routes, n.rules(), err)
	}
	for _, dir := range []string{"/opt/cni/bin", "/etc/cni/net.d", "/run/podnet", "/var/lib/podnet"} {
		if entries, err := os.ReadDir(n.path(dir)); err != nil || len(entries) != 0 {
			t.Errorf("%s: left %v, %v", dir, entries, err)
		}
	}
}

// startAgent starts the container.
func (n *host) startAgent(t *testing.T, c corev1.Container) (log *lockedBuffer, stop func()) {
	t.Helper()
	cmd := n.runc(t, c, c.Args)
	log = &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id := cmd.Args[len(cmd.Args)-1]
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		_ = exec.Command("runc", "--root", n.path("runc"), "kill", id, "TERM").Run()
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	return log, stop
}

// poll waits for a condition.
func poll(limit time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(limit); !ok(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// runc returns the command that runs a container of the pod.
func (n *host) runc(t *testing.T, c corev1.Container, args []string) *exec.Cmd {
	t.Helper()
	n.count++
	id := fmt.Sprintf("podnet-%s-%d-%d", c.Name, os.Getpid(), n.count)
	bundle := n.path(id)
	spec, err := json.Marshal(n.spec(t, c, args))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("runc", "--root", n.path("runc"), "delete", "--force", id).Run() })
	return exec.Command("runc", "--root", n.path("runc"), "run", "--bundle", bundle, id)
}
