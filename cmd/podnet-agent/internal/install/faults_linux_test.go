package install_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/install"
)

// installForever is the other process of TestKilled: it installs two versions in turn.
func installForever(dir, builds string) int {
	f := install.Files{BinDir: dir}
	for i := 0; ; i++ {
		f.Plugin = filepath.Join(builds, fmt.Sprint(i%2), install.PluginName)
		if _, err := install.Install(context.Background(), f); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

// TestKilled kills an installer at random moments: the plugin is always the one version or the other, whole, and at most one temporary file is left.
func TestKilled(t *testing.T) {
	older, current := pluginBuilds(t)
	f := newFiles(t, false)
	if _, err := install.Install(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(f.BinDir, install.PluginName)
	kills, halves := 40, 0
	if os.Getenv("PODNET_FAULTS") != "" {
		kills = 1000
	}
	for range kills {
		cmd := exec.Command(os.Args[0], "install", f.BinDir, filepath.Dir(filepath.Dir(older)))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.NewTimer(time.Duration(rand.IntN(60_000)) * time.Microsecond)
		<-timer.C
		if err := cmd.Process.Kill(); err != nil {
			t.Fatalf("it ended by itself: %v", err)
		}
		_ = cmd.Wait()
		if !same(t, target, older) && !same(t, target, current) {
			t.Fatal("the plugin is neither version")
		}
		if left := names(t, f.BinDir); len(left) == 2 {
			halves++
		} else if len(left) > 2 {
			t.Fatalf("left: %v", left)
		}
	}
	t.Logf("%d kills, %d of them with a half-written temporary file", kills, halves)
	if _, err := install.Install(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if left := names(t, f.BinDir); len(left) != 1 || !same(t, target, current) {
		t.Errorf("left: %v", left)
	}
}

// TestFullDisk: no room for the new version means that the old one stays, and nothing half-written.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	older, current := pluginBuilds(t)
	f := newFiles(t, false)
	if err := os.Mkdir(f.BinDir, 0o755); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(current)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", f.BinDir, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", info.Size()*3/2)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(f.BinDir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f.Plugin = older
	if _, err := install.Install(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	f.Plugin = current
	if _, err := install.Install(t.Context(), f); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want %v", err, syscall.ENOSPC)
	}
	if left := names(t, f.BinDir); len(left) != 1 || !same(t, filepath.Join(f.BinDir, install.PluginName), older) {
		t.Errorf("left: %v", left)
	}
}

// TestLocked: an installer waits for another one, but not for ever.
func TestLocked(t *testing.T) {
	f := newFiles(t, false)
	if _, err := install.Install(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(f.BinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := install.Install(ctx, f); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %v", err, context.DeadlineExceeded)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if _, err := install.Install(t.Context(), f); err != nil {
		t.Error(err)
	}
}
