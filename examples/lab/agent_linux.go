package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"golang.org/x/sys/unix"
)

const agentListen = "127.0.0.1:10256" // the same on every node: each has a loopback of its own

// process is a running podnet-agent or podnet-proxy.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	log    string
}

// spawner starts processes from one thread that lives as long as the lab, since a child's parent-death signal
// (prctl PR_SET_PDEATHSIG) is sent when the thread that started it ends.
type spawner struct {
	jobs chan func()
	home int // the lab's own network namespace
}

func newSpawner() (*spawner, error) {
	home, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := &spawner{jobs: make(chan func()), home: home}
	go func() {
		runtime.LockOSThread()
		for job := range s.jobs {
			job()
		}
	}()
	return s, nil
}

// start starts cmd inside the namespace; it dies with the lab.
func (s *spawner) start(path string, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	result := make(chan error)
	s.jobs <- func() {
		result <- func() error {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", path, err)
			}
			defer unix.Setns(s.home, unix.CLONE_NEWNET)
			return cmd.Start()
		}()
	}
	return <-result
}

// startAgent starts podnet-agent on a node, as a DaemonSet or a systemd unit would.
func (l *lab) startAgent(n *node) error {
	source := []string{"--nodes", l.path("nodes")}
	if l.kubernetes {
		source = []string{"--kubeconfig", n.path("kubeconfig")}
	}
	var err error
	n.agent, err = l.startOn(n, "podnet-agent", n.path("agent.log"), append(source,
		"--node-name", n.name,
		"--net-conf", l.path("net-conf.json"),
		"--subnet-file", n.path("subnet.env"),
		"--cni-conf-dir", n.path("net.d"),
		"--cni-data-dir", n.path("cni"),
		"--state-dir", n.path("agent"),
		"--listen", agentListen,
	))
	return err
}

// startOn starts one of our binaries on a node; what it prints goes to the end of a log file.
func (l *lab) startOn(n *node, binary, logPath string, args []string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(l.bin, binary), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := l.spawner.start(n.netns, cmd); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", binary, n.name, err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{}), log: logPath}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // the exit status is of no use: a lab kills its agents
	}()
	return p, nil
}

// stop sends sig and waits until the process is gone.
func (p *process) stop(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// waitReady polls the agent's /readyz until it says that routes have converged.
func (l *lab) waitReady(ctx context.Context, n *node) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // of a guest on a busy machine; usually it takes 100 ms
	defer cancel()
	last := "no answer yet"
	for {
		status, body, err := httpGet(ctx, n.netns, "http://"+agentListen+"/readyz")
		switch {
		case err != nil:
			last = err.Error()
		case status == http.StatusOK:
			return nil
		default:
			last = body
		}
		select {
		case <-n.agent.exited:
			return fmt.Errorf("podnet-agent on %s exited: %s", n.name, tail(n.agent.log))
		case <-ctx.Done():
			return fmt.Errorf("podnet-agent on %s not ready: %s; its log: %s", n.name, last, tail(n.agent.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// httpGet asks a server from inside a namespace.
func httpGet(ctx context.Context, path, url string) (status int, body string, err error) {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return dialFrom(path, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, strings.TrimSpace(string(data)), err
}

// tail returns the end of a log file for an error message.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 600
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return strings.TrimSpace(string(data))
}

// runIn runs a command inside a namespace and returns its output with an error.
func runIn(path string, argv ...string) error {
	return netns.Do(path, func() error {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
		return nil
	})
}
