package vm

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func fakeGuest(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{"vmlinuz": "", "initrd": "12345", "release": "6.1.0-test\n", "stamp": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestConfigRefused(t *testing.T) {
	guest := fakeGuest(t)
	for _, tt := range []struct {
		config Config
		want   string
	}{
		{Config{}, "Argv is empty"},
		{Config{Argv: []string{""}}, "Argv is empty"},
		{Config{Argv: []string{"true"}, Env: []string{"NAME"}}, `"NAME" is not NAME=VALUE`},
		{Config{Argv: []string{"true"}, Env: []string{"=x"}}, `"=x" is not NAME=VALUE`},
		{Config{Argv: []string{"true"}, Writable: []string{"."}}, `"." is not the absolute path`},
		{Config{Argv: []string{"true"}, Writable: []string{"/nonexistent"}}, `"/nonexistent" is not the absolute path`},
		{Config{Argv: []string{"true"}, Modules: []string{"a b"}}, `"a b" is not the name of a module`},
		{Config{Argv: []string{"true"}, CPUs: -1}, "CPUs -1"},
		{Config{Argv: []string{"true"}, Guest: t.TempDir()}, "test/vm/build makes it"},
	} {
		if tt.config.Guest == "" {
			tt.config.Guest = guest
		}
		_, err := Run(t.Context(), tt.config)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: have %v, want %q", tt.config, err, tt.want)
		}
	}
	if _, err := (Config{Argv: []string{"true"}, Guest: guest}).complete(); err != nil {
		t.Errorf("a configuration without faults: %v", err)
	}
}

func TestFind(t *testing.T) {
	dir := fakeGuest(t)
	t.Setenv("PODNET_VM_GUEST", dir)
	if have, err := Find(); err != nil || have != dir {
		t.Errorf("Find = %q, %v, want %q", have, err, dir)
	}
	t.Setenv("PODNET_VM_GUEST", "")
	t.Setenv("XDG_CACHE_HOME", "/nonexistent")
	if have, err := Find(); !errors.Is(err, os.ErrNotExist) || have != "/nonexistent/podnet/vm" {
		t.Errorf("Find = %q, %v", have, err)
	}
}

// TestQuote: a shell gets back what was quoted.
func TestQuote(t *testing.T) {
	words := []string{"", "a", "two words", "it's", `"$HOME"`, "`id`", "line\nline", `\`, "*", "-n", "''"}
	out, err := exec.Command("sh", "-c", `for word in `+quoteAll(words)+`; do printf '%s\0' "$word"; done`).Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Join(words, "\x00")+"\x00", string(out)); diff != "" {
		t.Error(diff)
	}
}

func TestJob(t *testing.T) {
	c, err := Config{
		Argv: []string{"echo", "it's"}, Env: []string{"A=b c"}, Writable: []string{t.TempDir()}, Modules: []string{"dummy"}, Guest: fakeGuest(t),
		Stdout: os.Stdout, Stderr: os.Stdout,
	}.complete()
	if err != nil {
		t.Fatal(err)
	}
	settings := "modules='" + c.Guest + "/modules'\nload='ip_vs nf_conntrack nf_conntrack_netlink br_netfilter dummy'\n" +
		`writable=''\''` + c.Writable[0] + `'\'''` + "\nnetwork='0'\nmerge='1'\n"
	if diff := cmp.Diff(settings, c.settings()); diff != "" {
		t.Error(diff)
	}
	out, err := exec.Command("sh", "-c", c.command()).Output()
	if err != nil || string(out) != "it's\n" {
		t.Errorf("the command prints %q, %v", out, err)
	}
	archive, err := c.initramfs()
	if err != nil {
		t.Fatal(err)
	}
	// Kernel: an archive begins at a multiple of four, and zeros may be before it.
	if !bytes.HasPrefix(archive, []byte("12345\x00\x00\x00070701")) || len(archive)%4 != 0 || !bytes.Contains(archive, []byte(settings)) {
		t.Errorf("initramfs: %q...", archive[:32])
	}
}

func TestSame(t *testing.T) {
	type uncomparable []int
	var a, b bytes.Buffer
	if !same(&a, &a) || same(&a, &b) || same(uncomparable{}, uncomparable{}) {
		t.Error("same is wrong")
	}
}

func TestConsole(t *testing.T) {
	var all bytes.Buffer
	c := &console{to: &all}
	text := strings.Repeat("[ 1.0] a line\r\n", 1000) + "[ 2.0] WARNING: CPU: 1 PID: 1 at net/core.c\r\n[ 3.0] last"
	for i := 0; i < len(text); i += 7 { // in pieces
		if _, err := c.Write([]byte(text[i:min(i+7, len(text))])); err != nil {
			t.Fatal(err)
		}
	}
	if all.String() != text {
		t.Error("not all is passed on")
	}
	if diff := cmp.Diff([]string{"[ 2.0] WARNING: CPU: 1 PID: 1 at net/core.c"}, c.warnings); diff != "" {
		t.Error(diff)
	}
	if tail := c.text(); len(tail) > 4000 || !strings.HasPrefix(tail, "[ 1.0] a line\n") || !strings.HasSuffix(tail, "\n[ 3.0] last") {
		t.Errorf("tail: %q", tail)
	}
}

// TestVerdict: what the third port says, and what becomes of it.
func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		said string
		qemu error
		want string // "" is no error
	}{
		{said: "up\nexit 0\n"},
		{said: "up\nexit 0\n", qemu: errors.New("exit status 1")}, // the command did end
		{said: "up\nexit 3\n", want: "false: exit status 3 in the guest"},
		{said: "up\n", want: "it ended before the command did"},
		{said: "", want: "it ended before it was up"},
		{said: "", qemu: errors.New("exit status 1"), want: "exit status 1"},
		{said: "fail modprobe x: not found\n", want: "modprobe x: not found"},
		{said: "up\nexit x\n", want: `it says "exit x"`},
		{said: "up\nexit 0\nwhat\n", want: `it says "what"`},
	} {
		var e ending
		ups := 0
		e.read(strings.NewReader(tt.said), func() { ups++ })
		if up := strings.HasPrefix(tt.said, "up"); (ups == 1) != up || e.up.After(time.Now()) {
			t.Errorf("%q: up %d times", tt.said, ups)
		}
		err := Config{Argv: []string{"false"}}.verdict(t.Context(), &e, tt.qemu, &console{})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%q: have %v, want %q", tt.said, err, tt.want)
		}
	}
}
