//go:build !linux

package veth

import "time"

func pause(d time.Duration) { time.Sleep(d) }
