package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/podnet/podnet/test/controlplane"
	"github.com/spf13/pflag"
)

// lab is one run.
type lab struct {
	*topology
	report       *report
	spawner      *spawner
	cluster      *cluster // with --kubernetes
	lock         *os.File // says that this run lives, for as long as it is open
	stopServers  []func()
	conflistSeen json.RawMessage

	services labServices
	front    *balancer
	resolved tally          // who answered for the name service
	answered map[string]int // who answered for web, under load
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = preflight(o)
	}
	if err != nil {
		fmt.Fprintln(stderr, "lab:", err)
		return 2
	}
	out := stdout
	if o.json {
		out = stderr
	}
	// SIGPIPE too: `lab | head` must clean up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	l, runErr := start(o, &report{out: out, start: time.Now()})
	if runErr == nil {
		runErr = errors.Join(l.run(ctx), l.end())
	}
	if l == nil {
		fmt.Fprintln(stderr, "lab:", runErr)
		return 1
	}
	if runErr != nil {
		fmt.Fprintln(out, "lab:", runErr)
	}
	if o.json {
		if err := l.json(stdout, runErr); err != nil {
			fmt.Fprintln(stderr, "lab:", err)
			return 1
		}
	}
	passed, failed := l.report.count()
	if runErr != nil {
		failed++
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", passed, failed)
	if failed > 0 || passed == 0 {
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := pflag.NewFlagSet("lab", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	self, _ := os.Executable()
	fs.IntVar(&o.nodes, "nodes", 3, "number of nodes")
	fs.IntVar(&o.pods, "pods", 2, "number of pods on each node")
	fs.StringVar(&o.backend, "backend", "vxlan", "vxlan (with direct routing) or host-gw")
	fs.StringVar(&o.family, "family", "dual", "dual, ipv4 or ipv6")
	fs.StringVar(&o.proxy, "proxy", "nftables", "mode of podnet-proxy: nftables, ipvs (needs a kernel with IPVS) or iptables; none: without Services")
	fs.StringVar(&o.checks, "checks", "all", "all, or services: only those of Services")
	fs.IntVar(&o.slow, "slow", 1, "how many times slower this machine is than a usual one, such as a guest whose processors are emulated: limits of time are so much longer")
	fs.BoolVar(&o.kubernetes, "kubernetes", false, "with a real Kubernetes control plane, which test/kube/build builds; the agents find each other through its Nodes")
	fs.StringVar(&o.deploy, "deploy", filepath.Join(filepath.Dir(self), "..", "deploy"), "directory of the manifests, for --kubernetes")
	fs.BoolVar(&o.keep, "keep", false, "leave the network standing until Ctrl-C, to look around in it")
	fs.BoolVar(&o.json, "json", false, "print the results as JSON; progress goes to standard error")
	fs.StringVar(&o.bin, "bin", filepath.Dir(self), "directory of podnet-agent, podnet-cni and podnet-proxy")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("argument %q: there are only flags", fs.Arg(0))
	}
	return o, o.validate()
}

// preflight says what is missing before anything is touched.
func preflight(o options) error {
	var errs []error
	if os.Getuid() != 0 {
		errs = append(errs, errors.New("needs root, to make network namespaces: run it with sudo"))
	}
	if _, err := exec.LookPath("nft"); err != nil {
		errs = append(errs, errors.New("needs nft: on Debian, apt-get install nftables"))
	}
	if o.proxy == "iptables" {
		if _, err := exec.LookPath("iptables-restore"); err != nil {
			errs = append(errs, errors.New("--proxy iptables: needs iptables: on Debian, apt-get install iptables"))
		}
	}
	if o.kubernetes {
		if _, err := controlplane.Find(); err != nil {
			errs = append(errs, err)
		}
		for _, manifests := range []string{"base", "proxy/base"} {
			if _, err := os.Stat(filepath.Join(o.deploy, manifests, "kustomization.yaml")); err != nil {
				errs = append(errs, fmt.Errorf("--deploy: needs podnet's manifests: %w", err))
			}
		}
	}
	binaries := []string{"podnet-agent", "podnet-cni"}
	if o.proxy != "none" {
		binaries = append(binaries, "podnet-proxy")
	}
	if o.proxy == "ipvs" {
		if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
			errs = append(errs, errors.New("--proxy ipvs: this kernel has no IPVS (module ip_vs, CONFIG_IP_VS); make lab-ipvs runs the lab in a guest that has it"))
		}
	}
	for _, binary := range binaries {
		if _, err := os.Stat(filepath.Join(o.bin, binary)); err != nil {
			errs = append(errs, fmt.Errorf("needs %s in %s: make build makes it", binary, o.bin))
		}
	}
	return errors.Join(errs...)
}

// start removes what killed runs left and prepares a new one.
func start(o options, r *report) (*lab, error) {
	gate, err := lockRuns()
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	swept, err := sweep()
	if err != nil {
		return nil, fmt.Errorf("remove leftovers of a killed lab: %w", err)
	}
	for _, id := range swept {
		r.progress("removed what %s left behind", id)
	}
	id, dir, lock, err := newRun()
	if err != nil {
		return nil, err
	}
	t, err := newTopology(o, id, dir)
	if err != nil {
		return nil, err
	}
	s, err := newSpawner()
	if err != nil {
		return nil, err
	}
	return &lab{topology: t, report: r, spawner: s, lock: lock}, nil
}

// step is one part of a run.
type step struct {
	title string
	run   func()
}

// run builds, shows, checks and breaks the network. Its error is what kept it from doing so; failed checks stand in the report.
func (l *lab) run(ctx context.Context) error {
	if err := l.up(ctx); err != nil {
		return err
	}
	fmt.Fprintln(l.report.out, l.picture())
	steps := []step{
		{"packets", func() { l.connectivity(ctx) }},
		{"packet size", l.packetSize},
		{"speed", l.speed},
		{"pods as the runtime sees them", func() { l.checkPods(ctx) }},
		{"restarts", func() { l.restarts(ctx) }},
		{"faults", func() { l.heals(ctx) }},
	}
	if l.checks == "services" {
		steps = nil
	}
	steps = append(steps, l.serviceSteps(ctx)...)
	if l.checks == "all" {
		steps = append(steps, l.clusterSteps(ctx)...)
	}
	for _, step := range steps {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		l.report.progress("%s", step.title)
		step.run()
	}
	if l.keep {
		l.report.progress("standing until Ctrl-C: ip netns list; files in %s", l.dir)
		if l.cluster != nil {
			l.report.progress("and: %s", l.kubectlCommand("get nodes -o wide"))
		}
		<-ctx.Done()
	}
	l.report.progress("end")
	l.endProxies()
	l.detachAll(context.WithoutCancel(ctx))
	return nil
}

// up brings up the underlay, the agents and the pods.
func (l *lab) up(ctx context.Context) error {
	l.report.progress("underlay: %d nodes, a router, a host outside", len(l.nodes))
	if err := errors.Join(l.prepareFiles(), l.build(ctx)); err != nil {
		return err
	}
	if l.kubernetes {
		if err := l.startCluster(ctx); err != nil {
			return err
		}
	}
	l.report.progress("agents: %s, %s", l.backend, l.family)
	for _, n := range l.nodes {
		if err := l.startAgent(n); err != nil {
			return err
		}
	}
	for _, n := range l.nodes {
		if err := l.waitReady(ctx, n); err != nil {
			return err
		}
		if l.cluster != nil {
			if err := l.cluster.ready(ctx, n); err != nil {
				return err
			}
		}
	}
	l.report.progress("pods: %d through podnet-cni", len(l.pods()))
	for _, p := range l.pods() {
		if err := l.attach(ctx, p); err != nil {
			return err
		}
	}
	var err error
	if l.conflistSeen, err = l.nodes[0].conflist(); err != nil {
		return err
	}
	if err := l.startServers(); err != nil {
		return err
	}
	return l.startServices(ctx)
}

func (l *lab) startServers() error {
	for _, n := range l.nodes {
		if err := l.serveNode(n); err != nil {
			return err
		}
	}
	return l.serveMachine(&l.outside)
}

// serveNode answers on a node and in its pods.
func (l *lab) serveNode(n *node) error {
	for _, p := range n.pods {
		addrs := loopbacks(l.families())
		for _, a := range p.addrs {
			addrs = append(addrs, a.Addr())
		}
		if err := l.serve(p.netns, addrs...); err != nil {
			return err
		}
	}
	return l.serveMachine(&n.machine)
}

func (l *lab) serveMachine(m *machine) error {
	for _, a := range m.ports[0].addrs {
		if err := l.serve(m.netns, a.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// end stops everything and removes it.
func (l *lab) end() error {
	for _, stop := range l.stopServers {
		stop()
	}
	for _, p := range l.pods() {
		_ = p.server.stop() // its clients are gone
	}
	for _, n := range l.nodes {
		for _, p := range []*process{n.agent, n.proxy} {
			if p != nil {
				p.stop(syscall.SIGTERM)
			}
		}
	}
	if l.cluster != nil {
		if err := l.cluster.plane.Close(); err != nil {
			return fmt.Errorf("end the control plane: %w", err)
		}
	}
	if err := errors.Join(removeRun(l.id, l.dir), l.lock.Close()); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

func (l *lab) serve(path string, addrs ...netip.Addr) error {
	stop, err := serve(path, addrs...)
	if err == nil {
		l.stopServers = append(l.stopServers, stop)
	}
	return err
}

func loopbacks(families []bool) []netip.Addr {
	var addrs []netip.Addr
	for _, v6 := range families {
		addrs = append(addrs, loopbackAddr(v6))
	}
	return addrs
}

func loopbackAddr(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
