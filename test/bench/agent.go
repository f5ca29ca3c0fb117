package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/netns"
)

// agent measures the resident memory of podnet-agent in a dual-stack cluster of n nodes, and the time until its routes stand.
func (b *bench) agent(n int) error {
	fmt.Printf("agent: %d nodes, dual-stack, vxlan ...\n", n)
	host, err := b.netns()
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "agent")
	if err := b.agentFiles(dir, n); err != nil {
		return err
	}
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(b.bin, "podnet-agent"), "--node-name", "node-0",
		"--nodes", filepath.Join(dir, "nodes.yaml"), "--net-conf", filepath.Join(dir, "net-conf.json"),
		"--subnet-file", filepath.Join(dir, "subnet.env"), "--cni-conf-dir", "", "--state-dir", filepath.Join(dir, "state"),
		"--listen", "127.0.0.1:10256")
	cmd.Stdout, cmd.Stderr = &log, &log
	err = netns.Do(host, func() error {
		if err := underlay(); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	took, err := clock(func() error { return ready(host, 2*time.Minute) })
	if err != nil {
		return fmt.Errorf("%w; its log: %s", err, log.String())
	}
	rss, high, err := memory(cmd.Process.Pid)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("agent, %d nodes, dual-stack", n)
	b.table.ratio(what+": resident memory, MiB of 64", fmt.Sprintf("%.1f (peak %.1f)", rss, high), "64 allowed", rss/64, "<= 1")
	b.table.ratio(what+": start until ready", ms(took), "", took.Seconds(), "seconds")
	return nil
}

func (b *bench) agentFiles(dir string, n int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var nodes bytes.Buffer
	for i := range n {
		fmt.Fprintf(&nodes, "---\nname: node-%d\npodCIDRs: [\"10.%d.%d.0/24\", \"fd00:b:%x::/64\"]\naddresses: [\"10.0.%d.%d\", \"fd00:a::%x\"]\n",
			i, 64+i>>8, i&255, i, (i+256)>>8, i&255, i+1)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "nodes.yaml"), nodes.Bytes(), 0o600),
		os.WriteFile(filepath.Join(dir, "net-conf.json"), []byte(`{"Network": "10.64.0.0/10", "EnableIPv6": true, "IPv6Network": "fd00:b::/32",
 "Backend": {"Type": "vxlan"}}`), 0o600))
}

// get asks the agent in a namespace.
func get(host, path string) (status int, body []byte, err error) {
	return getAt(host, "127.0.0.1:10256", path)
}

func getAt(host, address, path string) (status int, body []byte, err error) {
	var conn net.Conn
	if err := netns.Do(host, func() (err error) {
		conn, err = net.Dial("tcp", address)
		return err
	}); err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// ready waits for the agent's /readyz.
func ready(host string, limit time.Duration) error {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if status, _, err := get(host, "/readyz"); err == nil && status == http.StatusOK {
			return nil
		}
	}
	return errors.New("podnet-agent is not ready")
}

// metric returns the sum of the agent's metric over its labels.
func metric(host, name string) (sum float64, err error) {
	return metricAt(host, "127.0.0.1:10256", name)
}

func metricAt(host, address, name string) (sum float64, err error) {
	_, body, err := getAt(host, address, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			return 0, fmt.Errorf("metric %q: %w", line, err)
		}
		sum += value
	}
	return sum, nil
}

// memory reads the resident memory of a process and its peak, in MiB.
func memory(pid int) (rss, high float64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "VmRSS:":
			rss = kib / 1024
		case "VmHWM:":
			high = kib / 1024
		}
	}
	return rss, high, nil
}
