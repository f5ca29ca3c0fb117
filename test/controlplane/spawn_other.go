//go:build !linux

package controlplane

import (
	"errors"
	"os/exec"
)

type spawner struct{}

func newSpawner(string) (*spawner, error) { return nil, errors.ErrUnsupported }

func (*spawner) do(func() error) error { return errors.ErrUnsupported }
func (*spawner) start(*exec.Cmd) error { return errors.ErrUnsupported }
func (*spawner) close()                {}
