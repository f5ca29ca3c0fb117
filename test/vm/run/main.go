// Command run runs Go tests, or any command, in the guest of package vm, with the output of "go test":
//
//	go run ./test/vm/run ./service/ipvs/... ./rtnl        the tests of packages, all in one guest
//	go run ./test/vm/run -run IPVS -v ./service/...       some of them
//	go run ./test/vm/run -- ipvsadm -Ln                   a command in the current directory
//
// The tests are compiled here and run there one package after the other, each in its directory, with REQUIRE_KERNEL=1 and this machine's environment.
// The exit status is 0 if all passed, 1 if not, that of the command, or 2 if the guest failed. It makes the guest with test/vm/build if there is none.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/test/vm"
)

type options struct {
	run, skip, writable, modules string
	verbose, short, console      bool
	network                      bool
	timeout, limit               time.Duration
	cpus, memory                 int
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == inGuest {
		os.Exit(runPlan(os.Args[2], os.Stdout))
	}
	var o options
	flag.StringVar(&o.run, "run", "", "run the tests that match this regular expression, as go test does")
	flag.StringVar(&o.skip, "skip", "", "do not run the tests that match it")
	flag.BoolVar(&o.verbose, "v", false, "verbose, as go test -v")
	flag.BoolVar(&o.short, "short", false, "short, as go test -short")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "the tests of one package take no longer")
	flag.DurationVar(&o.limit, "limit", 60*time.Minute, "the guest lives no longer")
	flag.BoolVar(&o.console, "console", false, "print the guest's console")
	flag.BoolVar(&o.network, "network", false, "give the guest an interface; this machine's loopback is 10.0.2.2")
	flag.StringVar(&o.writable, "writable", "", "directories, separated by commas, that the guest may write")
	flag.StringVar(&o.modules, "modules", "", "kernel modules to load, separated by commas")
	flag.IntVar(&o.cpus, "cpus", 0, "the guest's processors; 0 is 2")
	flag.IntVar(&o.memory, "memory", 0, "the guest's memory in MiB; 0 is 3072")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: run [flags] packages...\n       run [flags] -- command [arguments]")
		flag.PrintDefaults()
	}
	isCommand := false
	for i, arg := range os.Args[1:] {
		if arg == "--" {
			isCommand = flag.CommandLine.Parse(os.Args[1:1+i]) == nil && flag.NArg() == 0
			break
		}
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	followParent()
	status, err := o.main(ctx, flag.Args(), isCommand)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	os.Exit(status)
}

// main returns the exit status and what is to be printed.
func (o options) main(ctx context.Context, args []string, isCommand bool) (int, error) {
	if err := build(ctx); err != nil {
		return 2, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return 2, err
	}
	config := vm.Config{
		Argv: args, Dir: dir, Env: environment(), Stdout: os.Stdout, Stderr: os.Stderr, Writable: list(o.writable), Modules: list(o.modules),
		Network: o.network, CPUs: o.cpus, MemoryMiB: o.memory,
	}
	if o.console {
		config.Console = os.Stderr
	}
	if !isCommand {
		sweep()
		temp, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", tempPrefix, os.Getpid()))
		if err != nil {
			return 2, err
		}
		defer os.RemoveAll(temp)
		path, err := o.compile(ctx, temp, args)
		if err != nil {
			return 2, err
		}
		self, err := os.Executable()
		if err != nil {
			return 2, err
		}
		config.Argv, config.Stderr = []string{self, inGuest, path}, os.Stdout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("the guest lived for %s (-limit)", o.limit))
	defer cancel()
	result, err := vm.Run(ctx, config)
	fmt.Fprintf(os.Stderr, "vm: Linux %s: up in %.1f s, ran for %.1f s\n", result.Release, result.Boot.Seconds(), result.Run.Seconds())
	for _, w := range result.Warnings {
		fmt.Fprintln(os.Stderr, "vm: the kernel says:", w)
	}
	if exit, ok := errors.AsType[*vm.ExitError](err); ok {
		return exit.Status, nil
	}
	if err != nil {
		return 2, err
	}
	return 0, nil
}

// build makes the guest if there is none.
func build(ctx context.Context) error {
	if _, err := vm.Find(); err == nil {
		return nil
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", "github.com/podnet/podnet/test/vm").Output()
	if err != nil {
		return fmt.Errorf("go list test/vm: %w", withStderr(err))
	}
	cmd := exec.CommandContext(ctx, filepath.Join(strings.TrimSpace(string(root)), "build"))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// compile writes the test binaries and the plan below temp, and returns the path of the plan.
func (o options) compile(ctx context.Context, temp string, packages []string) (string, error) {
	// A package without tests is left out, as there is nothing to run.
	format := `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{"\t"}}{{.Dir}}{{end}}`
	out, err := exec.CommandContext(ctx, "go", append([]string{"list", "-f", format, "--"}, packages...)...).Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", withStderr(err))
	}
	var p plan
	for line := range strings.Lines(string(out)) {
		name, dir, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			continue
		}
		binary := filepath.Join(temp, fmt.Sprintf("%d.test", len(p.Tests)))
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, name)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); ctx.Err() != nil {
			return "", context.Cause(ctx)
		} else if err != nil {
			binary = "" // the others run all the same, as with go test
		}
		p.Tests = append(p.Tests, test{Package: name, Dir: dir, Binary: binary})
	}
	if len(p.Tests) == 0 {
		return "", fmt.Errorf("no tests in %s", strings.Join(packages, " "))
	}
	p.Args = append(p.Args, "-test.timeout="+o.timeout.String(), "-test.paniconexit0")
	if o.verbose {
		p.Args = append(p.Args, "-test.v=true")
	}
	if o.short {
		p.Args = append(p.Args, "-test.short=true")
	}
	if o.run != "" {
		p.Args = append(p.Args, "-test.run="+o.run)
	}
	if o.skip != "" {
		p.Args = append(p.Args, "-test.skip="+o.skip)
	}
	path := filepath.Join(temp, "plan.json")
	return path, p.write(path)
}

// tempPrefix and the number of the process are in the names of the directories of test binaries.
const tempPrefix = "podnet-vm-tests-"

// sweep removes the directories of killed runs.
func sweep() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), tempPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && n > 0 && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // another run may do it at the same time
		}
	}
}

// environment is this machine's but for what is not true in the guest. Tests look for the build cache and for other programs by it.
func environment() []string {
	env := []string{"REQUIRE_KERNEL=1"}
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "", "_", "PWD", "OLDPWD", "TMPDIR", "PODNET_VM", "REQUIRE_KERNEL", "XDG_RUNTIME_DIR":
		case "PATH":
			env = append(env, "PATH="+value+":/usr/local/sbin:/usr/sbin:/sbin")
		default:
			env = append(env, e)
		}
	}
	return env
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}
