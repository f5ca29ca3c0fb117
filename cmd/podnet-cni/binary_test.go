package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// built is the plugin that the tests run as a process of its own.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// builtPlugin builds the plugin once and returns its directory.
func builtPlugin() (string, error) {
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "podnet-cni-test-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(built.dir, "podnet-cni"), ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the plugin: %w\n%s", err, out)
		}
	})
	return built.dir, built.err
}

func removePlugin() {
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
}
