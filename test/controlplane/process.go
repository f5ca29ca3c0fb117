package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one component: its command line, which stays the same over restarts, and the process that runs now.
type process struct {
	name  Component
	argv  []string
	log   string
	ready func(ctx context.Context) (*http.Response, error) // asks the component whether it is ready

	cmd    *exec.Cmd // nil if it does not run
	exited chan struct{}
}

// start starts the process and waits until it is ready. If it does not become ready, it is ended again.
func (p *process) start(ctx context.Context, s *spawner) error {
	if p.cmd != nil {
		return fmt.Errorf("%s runs already", p.name)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = filepath.Dir(p.log) // whatever it may write to its directory, it writes there
	if err := s.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the status is of no use: its log says more
	}()
	if err := p.wait(ctx); err != nil {
		p.end(syscall.SIGKILL, 0)
		return err
	}
	return nil
}

// wait polls until the component says that it is ready.
func (p *process) wait(ctx context.Context) error {
	const most = 2 * time.Minute // for a machine that is busy with other things; 3 s is usual
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	last := "no answer yet"
	for {
		resp, err := p.ready(ctx)
		switch {
		case err != nil:
			last = err.Error()
		default:
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = resp.Status
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s exited (%s) before it was ready; its log ends:\n%s", p.name, p.cmd.ProcessState, tail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %s; its log ends:\n%s", p.name, context.Cause(ctx), last, tail(p.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// end sends sig, sends SIGKILL if the process is still there after grace, and returns when it is gone.
func (p *process) end(sig syscall.Signal, grace time.Duration) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // a paused process takes nothing but SIGKILL
	select {
	case <-p.exited:
	case <-time.After(grace):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	p.cmd = nil
}

// pause stops every thread of the process and returns when they have stopped.
func (p *process) pause() error {
	if p.cmd == nil {
		return fmt.Errorf("pause %s: it does not run", p.name)
	}
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause %s: %w", p.name, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stopped, err := allStopped(p.cmd.Process.Pid)
		switch {
		case err != nil:
			return fmt.Errorf("pause %s: %w", p.name, err)
		case stopped:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("pause %s: its threads still run after 10 s", p.name)
		}
	}
}

func (p *process) resume() error {
	if p.cmd == nil {
		return fmt.Errorf("resume %s: it does not run", p.name)
	}
	return p.cmd.Process.Signal(syscall.SIGCONT)
}

func allStopped(pid int) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false, errors.Join(err, os.ErrProcessDone)
	}
	for _, path := range threads {
		fields, err := statFields(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // that thread ended
		}
		if err != nil {
			return false, err
		}
		if fields[0] != "T" {
			return false, nil
		}
	}
	return true, nil
}

// statFields returns the fields of a stat file of proc(5) from the third on, the state; the second may hold spaces.
func statFields(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return nil, fmt.Errorf("%s: %q: want the format of proc(5)", path, text)
	}
	return fields, nil
}

// Usage is what a component has used.
type Usage struct {
	RSS, PeakRSS int64         // bytes
	CPU          time.Duration // user and system time since its start
}

func (p *process) usage() (Usage, error) {
	if p.cmd == nil {
		return Usage{}, fmt.Errorf("usage of %s: it does not run", p.name)
	}
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	fields, err := statFields(proc + "stat")
	if err != nil {
		return Usage{}, err
	}
	var ticks int64 // of 10 ms, USER_HZ, on every architecture that Go runs on
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Usage{}, err
		}
		ticks += n
	}
	u := Usage{CPU: time.Duration(ticks) * 10 * time.Millisecond}
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return Usage{}, err
	}
	for line := range strings.Lines(string(status)) {
		var kB int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kB); n == 1 {
			u.RSS = kB << 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kB); n == 1 {
			u.PeakRSS = kB << 10
		}
	}
	return u, nil
}

// tail returns the end of a log file for an error message.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 2000
	if len(data) > most {
		data = data[len(data)-most:]
		if _, rest, ok := strings.Cut(string(data), "\n"); ok {
			data = []byte(rest)
		}
	}
	return strings.TrimSpace(string(data))
}
