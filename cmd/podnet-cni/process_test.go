package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
)

// nothing are verbs that succeed.
func nothing() verbs {
	done := func(context.Context, *skel.CmdArgs) error { return nil }
	add := func(context.Context, *skel.CmdArgs) (types.Result, error) {
		c := config{gateway: true, defaultGateway: true}
		return c.result(attachment{
			bridge: rtnl.Link{Name: "cni0", MAC: rtnl.MAC{2, 0, 0, 0, 0, 1}}, host: rtnl.Link{Name: "veth0", MAC: rtnl.MAC{2, 0, 0, 0, 0, 2}},
			pod: rtnl.Link{Name: "eth0", MAC: rtnl.MAC{2, 0, 0, 0, 0, 3}, MTU: 1450}, netns: "/run/netns/x", addrs: testAddrs(),
		}), nil
	}
	return verbs{add: add, del: done, check: done, gc: done, status: done}
}

// runProcess runs the edge in this process.
func runProcess(env map[string]string, stdin string, v verbs) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	p := process{getenv: func(k string) string { return env[k] }, stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs}
	return p.run(context.Background(), v), out.String(), errs.String()
}

// with returns a copy of m with some values replaced; "" removes one.
func with(m map[string]string, pairs ...string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
		if pairs[i+1] == "" {
			delete(out, pairs[i])
		}
	}
	return out
}

func call(command string) map[string]string {
	return map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/nonexistent/ns", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin", "CNI_NETNS_OVERRIDE": "1"}
}

const plain = `{"cniVersion":"1.1.0","name":"net","type":"podnet-cni"}`

type edgeCase struct {
	name  string
	env   map[string]string
	stdin string
	code  uint   // 0: success
	want  string // in the error
	// differs says why skel answers otherwise.
	differs string
}

func edgeCases() []edgeCase {
	add, del, check, gc, status := call("ADD"), call("DEL"), call("CHECK"), call("GC"), call("STATUS")
	old := func(v string) string { return `{"cniVersion":"` + v + `","name":"net","type":"podnet-cni"}` }
	return []edgeCase{
		{name: "ADD", env: add, stdin: plain},
		{name: "ADD in version 0.3.1", env: add, stdin: old("0.3.1")},
		{name: "DEL", env: del, stdin: plain},
		{name: "DEL without netns", env: with(del, "CNI_NETNS", ""), stdin: plain},
		{name: "CHECK", env: check, stdin: plain},
		{name: "GC", env: gc, stdin: plain},
		{name: "GC has no container", env: with(gc, "CNI_CONTAINERID", "", "CNI_IFNAME", "", "CNI_NETNS", ""), stdin: plain},
		{name: "STATUS", env: status, stdin: plain},
		{name: "VERSION needs nothing", env: map[string]string{"CNI_COMMAND": "VERSION"}},
		{name: "no version is 0.1.0", env: add, stdin: `{"name":"net"}`},

		{name: "missing variables", env: with(add, "CNI_CONTAINERID", "", "CNI_PATH", ""), stdin: plain, code: 4, want: "required env variables [CNI_CONTAINERID,CNI_PATH] missing"},
		{name: "missing netns", env: with(check, "CNI_NETNS", ""), stdin: plain, code: 4, want: "required env variables [CNI_NETNS] missing"},
		{name: "unknown command", env: with(add, "CNI_COMMAND", "FROB"), stdin: plain, code: 4, want: `CNI_COMMAND "FROB": want ADD, DEL, CHECK, GC, STATUS or VERSION`},
		{name: "container with ..", env: with(add, "CNI_CONTAINERID", "../k1"), stdin: plain, code: 4, want: `CNI_CONTAINERID "../k1": want a letter or digit`},
		{name: "interface too long", env: with(add, "CNI_IFNAME", "eth0123456789012"), stdin: plain, code: 4, want: `CNI_IFNAME "eth0123456789012": 16 bytes: want at most 15`},
		{name: "interface ..", env: with(add, "CNI_IFNAME", ".."), stdin: plain, code: 4, want: `CNI_IFNAME "..": is not an interface name`},
		{name: "interface with /", env: with(add, "CNI_IFNAME", "a/b"), stdin: plain, code: 4, want: `CNI_IFNAME "a/b": must not hold "/"`},
		{name: "interface with a space", env: with(del, "CNI_IFNAME", "a b"), stdin: plain, code: 4, want: `CNI_IFNAME "a b": must not hold " "`},

		{name: "no JSON", env: add, stdin: "{", code: 6, want: "decode the configuration: unexpected end of JSON input"},
		{name: "no configuration", env: add, stdin: "", code: 6, want: "decode the configuration"},
		{name: "no name", env: add, stdin: `{"cniVersion":"1.1.0"}`, code: 7, want: "missing network name"},
		{name: "bad name", env: status, stdin: `{"cniVersion":"1.1.0","name":"../x"}`, code: 7, want: `name "../x": want a letter or digit`},
		{name: "future version", env: add, stdin: old("9.0.0"), code: 1, want: `cniVersion "9.0.0": want one of 0.1.0`},
		{name: "CHECK too early", env: check, stdin: old("0.3.1"), code: 1, want: "cniVersion 0.3.1 does not know CHECK"},
		{name: "GC too early", env: gc, stdin: old("1.0.0"), code: 1, want: "cniVersion 1.0.0 does not know GC"},
		{name: "STATUS too early", env: status, stdin: old("1.0.0"), code: 1, want: "cniVersion 1.0.0 does not know STATUS"},
		{name: "version is no version", env: check, stdin: old("one"), code: 6, want: "failed to convert major version part"},

		{name: "container inside ..", env: with(add, "CNI_CONTAINERID", "a..b"), stdin: plain, code: 4, want: `must not hold ".."`, differs: "a file name"},
		{name: "container too long", env: with(add, "CNI_CONTAINERID", strings.Repeat("a", 129)), stdin: plain, code: 4, want: `129 bytes: want at most 128`, differs: "unbounded"},
		{name: "name too long", env: add, stdin: `{"cniVersion":"1.1.0","name":"` + strings.Repeat("n", 65) + `"}`, code: 7, want: "65 bytes: want at most 64", differs: "unbounded"},
		{name: "interface with %", env: with(add, "CNI_IFNAME", "eth%d"), stdin: plain, code: 4, want: `must not hold "%"`, differs: "the kernel makes it eth0"},
		{name: "interface with ;", env: with(add, "CNI_IFNAME", "x;reboot"), stdin: plain, code: 4, want: `must not hold ";"`, differs: "harmless but absurd"},
		{name: "interface with a control byte", env: with(add, "CNI_IFNAME", "a\x01b"), stdin: plain, code: 4, want: `must not hold "\x01"`, differs: "harmless but absurd"},
		{name: "netns is relative", env: with(add, "CNI_NETNS", "ns1"), stdin: plain, code: 4, want: `CNI_NETNS "ns1": want the absolute path`, differs: "depends on the working directory"},
		{name: "stdin too long", env: add, stdin: `{"cniVersion":"1.1.0","name":"net","x":"` + strings.Repeat("x", maxStdin) + `"}`, code: 6, want: "want at most 1048576 bytes", differs: "unbounded"},
	}
}

func TestProcess(t *testing.T) {
	for _, tc := range edgeCases() {
		t.Run(tc.name, func(t *testing.T) {
			status, out, _ := runProcess(tc.env, tc.stdin, nothing())
			if tc.code == 0 {
				if status != 0 {
					t.Fatalf("status %d: %s", status, out)
				}
				return
			}
			e := parseError(t, out)
			if status == 0 || e.Code != tc.code || !strings.Contains(e.Error(), tc.want) {
				t.Errorf("status %d, code %d, %q; want code %d, %q", status, e.Code, e.Error(), tc.code, tc.want)
			}
		})
	}
}

// TestProcessAgainstSkel runs the same calls through the process edge of containernetworking/cni and compares codes.
func TestProcessAgainstSkel(t *testing.T) {
	for _, tc := range edgeCases() {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = []string{asEnv + "=" + asSkel}
			for k, v := range tc.env {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			cmd.Stdin = strings.NewReader(tc.stdin)
			out, err := cmd.Output()
			var code uint
			if err != nil {
				code = parseError(t, string(out)).Code
			}
			if same := code == tc.code; same != (tc.differs == "") {
				t.Errorf("skel says %d (%s), the plugin %d, differs: %q", code, out, tc.code, tc.differs)
			}
		})
	}
}

func parseError(t *testing.T, out string) *types.Error {
	t.Helper()
	var e struct {
		CNIVersion string `json:"cniVersion"`
		types.Error
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("standard output %q: %v", out, err)
	}
	return &e.Error
}

func TestProcessOutput(t *testing.T) {
	failing := nothing()
	failing.add = func(context.Context, *skel.CmdArgs) (types.Result, error) {
		return nil, types.NewError(types.ErrTryAgainLater, "not <yet>", "soon")
	}
	full := nothing()
	full.del = func(context.Context, *skel.CmdArgs) error {
		return &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	}
	for _, tc := range []struct {
		name  string
		env   map[string]string
		verbs verbs
		want  string
	}{
		{"version", map[string]string{"CNI_COMMAND": "VERSION"}, nothing(), `{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}` + "\n"},
		{"error", call("ADD"), failing, "{\n    \"cniVersion\": \"1.1.0\",\n    \"code\": 11,\n    \"msg\": \"not <yet>\",\n    \"details\": \"soon\"\n}\n"},
		{"error without a code", call("DEL"), full, "{\n    \"cniVersion\": \"1.1.0\",\n    \"code\": 5,\n    \"msg\": \"write x: no space left on device\"\n}\n"},
		{"nothing on success", call("DEL"), nothing(), ""},
		{"no command", nil, nothing(), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, out, _ := runProcess(tc.env, plain, tc.verbs)
			if diff := cmp.Diff(tc.want, out); diff != "" {
				t.Errorf("standard output (-want +got):\n%s", diff)
			}
		})
	}
	if status, _, errs := runProcess(nil, "", nothing()); status != 0 || !strings.Contains(errs, "CNI plugin") {
		t.Errorf("without a command: status %d, %q", status, errs)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, errors.New("broken pipe") }
func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestProcessBrokenStreams(t *testing.T) {
	var errs bytes.Buffer
	env := func(k string) string { return call("ADD")[k] }
	for _, p := range []process{
		{getenv: env, stdin: broken{}, stdout: io.Discard, stderr: &errs},
		{getenv: env, stdin: strings.NewReader(plain), stdout: broken{}, stderr: &errs},
		{getenv: func(string) string { return "VERSION" }, stdin: broken{}, stdout: broken{}, stderr: &errs},
	} {
		if status := p.run(context.Background(), nothing()); status == 0 {
			t.Error("status 0 though a stream is broken")
		}
	}
}

// TestResultVersions looks that a result can be had in every version that the plugin says it supports.
func TestResultVersions(t *testing.T) {
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		status, out, _ := runProcess(call("ADD"), `{"cniVersion":"`+version+`","name":"net"}`, nothing())
		if status != 0 {
			t.Errorf("version %s: %s", version, out)
			continue
		}
		golden(t, "result/"+version+".json", out+"\n")
	}
}
