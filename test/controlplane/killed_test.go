package controlplane_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/podnet/podnet/test/controlplane"
	"github.com/podnet/podnet/test/controlplane/controlplanetest"
)

// helperEnv makes this test binary a program that starts a control plane and waits to be killed.
const helperEnv = "PODNET_CONTROLPLANE_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		c, err := controlplane.Start(context.Background(), controlplane.Config{})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(c.Dir())
		select {}
	}
	os.Exit(m.Run())
}

func TestKilledLeavesNothing(t *testing.T) {
	controlplanetest.Binaries(t)
	t.Setenv("TMPDIR", t.TempDir()) // other packages' tests sweep too
	helper := exec.Command("/proc/self/exe")
	helper.Env = append(os.Environ(), helperEnv+"=1")
	stdout, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		helper.Process.Kill()
		helper.Wait() // only then the kernel has closed all of its files, and so freed the lock
	})
	defer end()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	dir := strings.TrimSpace(line)
	if err != nil || !strings.HasPrefix(dir, "/") {
		t.Fatalf("helper: %q, %v", line, err)
	}
	if users := usersOf(t, dir); len(users) != 2 {
		t.Fatalf("processes of the helper: %q, want etcd and kube-apiserver", users)
	}
	end()
	eventually(t, func() error {
		if users := usersOf(t, dir); len(users) != 0 {
			return fmt.Errorf("processes after the kill: %q", users)
		}
		return nil
	})
	// The next start sweeps, even one that fails.
	if _, err := controlplane.Start(context.Background(), controlplane.Config{Netns: "/nonexistent/netns"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start in a namespace that does not exist = %v", err)
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) != 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

func TestStartFailsWithTheLog(t *testing.T) {
	controlplanetest.Binaries(t)
	_, err := controlplane.Start(context.Background(), controlplane.Config{
		Flags: map[controlplane.Component][]string{controlplane.APIServer: {"--no-such-flag"}},
	})
	if err == nil || !strings.Contains(err.Error(), "kube-apiserver exited") || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("Start = %v, want the end of kube-apiserver's log", err)
	}
}
