package vm_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/test/vm"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// helperEnv makes this test binary another program, here or in the guest.
const helperEnv = "PODNET_VM_HELPER"

func TestMain(m *testing.M) {
	switch job, arg, _ := strings.Cut(os.Getenv(helperEnv), " "); job {
	case "":
		os.Exit(m.Run())
	case "dial": // prints what a server says
		c, err := net.Dial("tcp", arg)
		if err == nil {
			_, err = io.Copy(os.Stdout, c)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "guest": // runs a guest that does not end
		_, err := vm.Run(context.Background(), vm.Config{Argv: []string{"sh", "-c", "echo here; sleep 600"}, Stdout: os.Stdout, CPUs: 1, MemoryMiB: 512})
		fmt.Println(err)
	}
}

// script is what a command may rely on. Its arguments are this test binary and the argument.
const script = `
echo "kernel: $(uname -r)"
echo "argument: $1"
echo "environment: $A $PODNET_VM"
echo "directory: $(pwd), $(ls vm.go)"
echo a podnet line >/dev/kmsg; echo exit 9 >/dev/console
echo "host: $(PODNET_VM_HELPER="dial 10.0.2.2:$PORT" "$0")"
echo in the guest only >vm.go; echo "overlay: $(cat vm.go)"
echo out of the guest >"$OUT/file"
echo "temporary: $(mktemp)" | cut -c1-19
echo "again" >/dev/stdout
ip link add dum0 type dummy && ip link add wg0 type wireguard && tc qdisc add dev dum0 root netem loss 1% && modprobe sctp && echo modules
for s in rr wrr lc wlc sed nq dh sh mh fo ovf lblc lblcr; do
	port=$((port + 1)); ipvsadm -A -t 192.0.2.1:$port -s $s || echo "no scheduler $s"
done
nft add table ip x && iptables -A INPUT -m statistic --mode random --probability 0.5 -j ACCEPT && echo netfilter
echo error >&2
sleep 1000 & # holds the pipes
exit 3`

// TestGuest is one boot for all of the script.
func TestGuest(t *testing.T) {
	guest := vmtest.Guest(t)
	release, err := os.ReadFile(filepath.Join(guest, "release"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for c, err := server.Accept(); err == nil; c, err = server.Accept() {
			fmt.Fprint(c, "from the host")
			c.Close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	writable := filepath.Join(t.TempDir(), "it's writable")
	if err := os.Mkdir(writable, 0o755); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	argument := "it's \"two\" \\ lines\n$HOME"
	began := time.Now()
	result, status := vmtest.Run(t, vm.Config{
		Argv: []string{"sh", "-c", script, self, argument}, Dir: here, CPUs: 1, MemoryMiB: 1024, Network: true, Writable: []string{writable},
		Env:    []string{"A=b c", "OUT=" + writable, "PORT=" + strconv.Itoa(server.Addr().(*net.TCPAddr).Port)},
		Stdout: &stdout, Stderr: &stderr,
	})
	t.Logf("up in %.1f s, ran for %.1f s, all %.1f s", result.Boot.Seconds(), result.Run.Seconds(), time.Since(began).Seconds())
	uname := strings.TrimSpace(string(release))
	want := "kernel: " + uname + "\nargument: " + argument + "\nenvironment: b c 1\ndirectory: " + here + ", vm.go\nhost: from the host\n" +
		"overlay: in the guest only\ntemporary: /run/tmp\nagain\nmodules\nnetfilter\n"
	if diff := cmp.Diff(want, stdout.String()); diff != "" {
		t.Error(diff)
	}
	if stderr.String() != "error\n" {
		t.Errorf("stderr: %q", &stderr)
	}
	if status != 3 || result.Release != uname || result.Boot <= 0 || result.Run <= 0 {
		t.Errorf("status %d, want 3; %+v", status, result)
	}
	if data, err := os.ReadFile(filepath.Join(writable, "file")); err != nil || string(data) != "out of the guest\n" {
		t.Errorf("the file from the guest: %q, %v", data, err)
	}
	if data, err := os.ReadFile("vm.go"); err != nil || !bytes.Contains(data, []byte("package vm")) {
		t.Errorf("the guest wrote to the host: %v, %.40q", err, data)
	}
}

// TestMuch: output that does not fit into any buffer arrives whole, and in order if both streams are one.
func TestMuch(t *testing.T) {
	guest := vmtest.Guest(t)
	var out bytes.Buffer
	_, err := vm.Run(t.Context(), vm.Config{
		Guest: guest, Argv: []string{"sh", "-c", "i=0; while [ $i -lt 1000 ]; do echo $i; echo $i >&2; i=$((i+1)); done; seq 1 200000"}, CPUs: 1, MemoryMiB: 512,
		Stdout: &out, Stderr: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&want, "%d\n%d\n", i, i)
	}
	for i := range 200000 {
		fmt.Fprintln(&want, i+1)
	}
	if !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes arrived, or others than were written: want %d", out.Len(), want.Len())
	}
}

func TestGuestFails(t *testing.T) {
	guest := vmtest.Guest(t)
	t.Run("panic", func(t *testing.T) {
		result, err := vm.Run(t.Context(), vm.Config{Guest: guest, Argv: []string{"sh", "-c", "echo c >/proc/sysrq-trigger"}, CPUs: 1, MemoryMiB: 512})
		if err == nil || !strings.Contains(err.Error(), "sysrq triggered crash") || len(result.Warnings) == 0 {
			t.Errorf("have %+v, %v, want the panic", result, err)
		}
		if exit := (*vm.ExitError)(nil); errors.As(err, &exit) {
			t.Errorf("a panic is taken for an exit status: %v", exit)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		r, w := io.Pipe()
		go func() {
			_, _ = bufio.NewReader(r).ReadString('\n')
			cancel(errors.New("the reason"))
			_, _ = io.Copy(io.Discard, r)
		}()
		_, err := vm.Run(ctx, vm.Config{Guest: guest, Argv: []string{"sh", "-c", "echo here; sleep 600"}, Stdout: w, CPUs: 1, MemoryMiB: 512})
		w.Close()
		if err == nil || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("have %v, want the reason", err)
		}
		if left := children(t, os.Getpid()); len(left) != 0 {
			t.Errorf("processes left: %v", left)
		}
	})
}

func TestKilledLeavesNothing(t *testing.T) {
	vmtest.Guest(t)
	temp := t.TempDir()
	helper := exec.Command("/proc/self/exe")
	helper.Env = append(os.Environ(), helperEnv+"=guest", "TMPDIR="+temp)
	stdout, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { helper.Process.Kill(); helper.Wait() }()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "here\n" {
		t.Fatalf("helper: %q, %v", line, err)
	}
	guests := children(t, helper.Process.Pid)
	if len(guests) != 1 {
		t.Fatalf("processes of the helper: %v, want one", guests)
	}
	helper.Process.Kill()
	for deadline := time.Now().Add(10 * time.Second); !errors.Is(syscall.Kill(guests[0], 0), syscall.ESRCH); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is left", guests[0])
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// children returns the child processes of a process.
func children(t *testing.T, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		// PID (NAME) STATE PARENT, where the name may hold anything.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}
