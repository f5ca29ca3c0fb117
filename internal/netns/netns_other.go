//go:build !linux

package netns

import "errors"

// Create is unsupported here.
func Create(string) error { return errors.ErrUnsupported }

// Delete is unsupported here.
func Delete(string) error { return errors.ErrUnsupported }

// List is unsupported here.
func List(string) ([]string, error) { return nil, errors.ErrUnsupported }

// Do is unsupported here.
func Do(string, func() error) error { return errors.ErrUnsupported }
