// Bench measures podnet's binaries beside their peers in one run and prints a table. The machine may be slow and noisy: only the
// ratios mean something. It needs root; everything happens in network namespaces of its own.
//
// Peers: containernetworking/plugins v1.9.1 (bridge and host-local) and kube-proxy v1.36.3, built here from their Go modules; for whole sets of kernel objects,
// iproute2's ip -batch (in the Go benchmarks of the packages, which this program runs last).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/podnet/podnet/internal/netns"
)

type bench struct {
	bin   string // podnet's binaries
	dir   string // files of this run
	peers string // the peers' binaries
	fresh int    // number of namespaces made so far
	table table
}

// settings are the command line.
type settings struct {
	bin                          string
	pods, rounds, nodes, changes int
	only                         string
	kube, goBench                bool
	service                      serviceSettings
}

func main() {
	var s settings
	flag.StringVar(&s.bin, "bin", "../../bin", "directory of podnet's binaries")
	flag.IntVar(&s.pods, "pods", 1000, "pods that are there already (a bridge has 1,023 ports at most)")
	flag.IntVar(&s.rounds, "rounds", 60, "measured ADDs and DELs of each plugin")
	flag.IntVar(&s.nodes, "nodes", 5000, "nodes of the cluster that the agent is measured in")
	flag.IntVar(&s.changes, "changes", 100, "measured changes of one node of the cluster")
	flag.BoolVar(&s.kube, "kube", true, "measure the agent on a real API server too, if test/kube/build was run")
	flag.BoolVar(&s.goBench, "go", true, "run the packages' Go benchmarks too")
	flag.StringVar(&s.only, "only", "", "measure only this: cni, agent, kube, service, service-ipvs or go")
	s.service.flags(flag.CommandLine)
	flag.Parse()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(s settings) (err error) {
	if os.Getuid() != 0 {
		return errors.New("needs root, to make network namespaces")
	}
	dir, err := os.MkdirTemp("", "podnet-bench-")
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(s.bin)
	if err != nil {
		return err
	}
	b := &bench{bin: bin, dir: dir, peers: filepath.Join(dir, "peers")}
	defer func() { err = errors.Join(err, b.cleanUp()) }()

	for _, part := range []struct {
		name    string
		enabled bool
		run     func() error
	}{
		{"cni", true, func() error { return b.cni(s.pods, s.rounds) }},
		{"agent", true, func() error { return b.agent(s.nodes) }},
		{"kube", s.kube, func() error { return b.kube(s.nodes, s.changes) }},
		{"service", true, func() error { return b.service(s.service) }},
		{"service-ipvs", true, func() error { return b.serviceGuest(s.service) }},
	} {
		if s.only == part.name || s.only == "" && part.enabled {
			if err := part.run(); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	if len(b.table.rows) > 0 {
		fmt.Println()
		b.table.print(os.Stdout)
	}
	if s.only == "go" || s.only == "" && s.goBench {
		return goBenchmarks()
	}
	return nil
}

func (b *bench) buildPeers() error {
	fmt.Println("building the peers from containernetworking/plugins v1.9.1 ...")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.peers+"/",
		"github.com/containernetworking/plugins/plugins/main/bridge",
		"github.com/containernetworking/plugins/plugins/ipam/host-local")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func goBenchmarks() error {
	fmt.Println("\nGo benchmarks of the packages (ratios to the peer are reported as \"x-...\" metrics):")
	// Not ./...: each of these packages measures itself beside the kernel's own tools.
	tests := exec.Command("go", "test", "-run", "^$", "-bench", ".", "-benchtime", "1s", "-timeout", "30m",
		"./ipam/...", "./rtnl/...", "./bridge", "./veth", "./vxlan", "./hostgw", "./masq/...", "./service", "./service/nft", "./service/conntrack")
	tests.Dir, tests.Stdout, tests.Stderr = "../..", os.Stdout, os.Stderr
	return tests.Run()
}

// netns makes a namespace that lives as long as the run.
func (b *bench) netns() (string, error) {
	b.fresh++
	name := fmt.Sprintf("podnet-bench-%d-%d", os.Getpid(), b.fresh)
	return netns.Path(name), netns.Create(name)
}

func (b *bench) cleanUp() error {
	names, err := netns.List(fmt.Sprintf("podnet-bench-%d-", os.Getpid()))
	errs := []error{err, os.RemoveAll(b.dir)}
	for _, name := range names {
		errs = append(errs, netns.Delete(name))
	}
	return errors.Join(errs...)
}

// clock measures one call.
func clock(fn func() error) (time.Duration, error) {
	start := time.Now()
	err := fn()
	return time.Since(start), err
}
