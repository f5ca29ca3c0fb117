package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/podnet/podnet/test/vm"
)

// serviceGuest runs this program in the guest, whose kernel has IPVS. It prints a table of its own: its processors are emulated, so nothing in it can be held against figures from
// outside.
func (b *bench) serviceGuest(s serviceSettings) error {
	build := exec.Command("../vm/build") // takes no time when the guest is there
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Printf("service-ipvs: skipped: no guest: %v\n", err)
		return nil
	}
	binary, err := kubeProxy(s.kubeProxy)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	// go run's binary is in a directory that only lives as long as it; the guest sees it all the same.
	argv := []string{self, "-only", "service", "-bin", b.bin, "-kube-proxy", binary, "-service-mode", "ipvs", "-service-warm", "-service-proxies", s.contestants,
		"-service-sizes", s.guestSizes, "-service-limit", s.guestLimit.String(), "-service-changes", "5", "-service-quiet", "20s",
		"-service-path-at", strconv.Itoa(s.guestPathAt), "-service-min-sync", s.minSync.String()}
	fmt.Printf("service-ipvs: in the guest, %s; kube-proxy may take %v for a first sync ...\n", s.guestSizes, s.guestLimit)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	var exit *vm.ExitError
	result, err := vm.Run(ctx, vm.Config{Argv: argv, Dir: filepath.Clean(here), Stdout: os.Stdout, Stderr: os.Stderr})
	if errors.As(err, &exit) {
		return fmt.Errorf("in the guest: %w", err)
	}
	if err == nil {
		fmt.Printf("service-ipvs: Linux %s, %v\n", result.Release, result.Run.Round(time.Second))
	}
	return err
}
