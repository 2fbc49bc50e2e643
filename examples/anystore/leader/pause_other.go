//go:build !unix

package main

import (
	"errors"
	"fmt"
)

// Pause implements vote.Member.
func (p *process) Pause() error { return fmt.Errorf("to pause a process: %w", errors.ErrUnsupported) }

// Resume implements vote.Member.
func (p *process) Resume() error { return p.Pause() }
