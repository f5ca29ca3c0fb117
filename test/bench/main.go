// Bench measures podnet's binaries beside their peers in one run and prints a table. The machine may be slow and noisy: only the
// ratios mean something. It needs root; everything happens in network namespaces of its own.
//
// Peers: containernetworking/plugins v1.9.1 (bridge and host-local), built here from its Go module; for whole sets of kernel objects,
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

func main() {
	bin := flag.String("bin", "../../bin", "directory of podnet's binaries")
	pods := flag.Int("pods", 1000, "pods that are there already (a bridge has 1,023 ports at most)")
	rounds := flag.Int("rounds", 60, "measured ADDs and DELs of each plugin")
	nodes := flag.Int("nodes", 5000, "nodes of the cluster that the agent is measured in")
	goBench := flag.Bool("go", true, "run the packages' Go benchmarks too")
	flag.Parse()
	if err := run(*bin, *pods, *rounds, *nodes, *goBench); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(bin string, pods, rounds, nodes int, goBench bool) (err error) {
	if os.Getuid() != 0 {
		return errors.New("needs root, to make network namespaces")
	}
	dir, err := os.MkdirTemp("", "podnet-bench-")
	if err != nil {
		return err
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	b := &bench{bin: bin, dir: dir, peers: filepath.Join(dir, "peers")}
	defer func() { err = errors.Join(err, b.cleanUp()) }()

	fmt.Println("building the peers from containernetworking/plugins v1.9.1 ...")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.peers+"/",
		"github.com/containernetworking/plugins/plugins/main/bridge",
		"github.com/containernetworking/plugins/plugins/ipam/host-local")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := b.cni(pods, rounds); err != nil {
		return err
	}
	if err := b.agent(nodes); err != nil {
		return err
	}
	fmt.Println()
	b.table.print(os.Stdout)
	if !goBench {
		return nil
	}
	fmt.Println("\nGo benchmarks of the packages (ratios to the peer are reported as \"x-...\" metrics):")
	// Not ./...: each of these packages measures itself beside the kernel's own tools.
	tests := exec.Command("go", "test", "-run", "^$", "-bench", ".", "-benchtime", "1s", "-timeout", "30m",
		"./ipam/...", "./rtnl/...", "./bridge", "./veth", "./vxlan", "./hostgw", "./masq/...")
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
