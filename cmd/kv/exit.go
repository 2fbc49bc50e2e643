package main

import (
	"context"
	"errors"
	"strings"

	"github.com/polykv/kv"
)

// The exit statuses, for scripts.
const (
	exitOK          = 0
	exitOther       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitUnavailable = 5
	exitUncertain   = 6
	exitPermission  = 7
	exitLockLost    = 8
	exitInterrupted = 128 + 2
)

// status is the exit status for an error. Where several fit, the first is the
// one that a script must not overlook.
func status(err error) int {
	for _, s := range []struct {
		err  error
		code int
	}{
		{kv.ErrLockLost, exitLockLost},
		{kv.ErrUncertain, exitUncertain},
		{kv.ErrNotFound, exitNotFound},
		{kv.ErrExists, exitConflict},
		{kv.ErrConflict, exitConflict},
		{kv.ErrLocked, exitConflict},
		{kv.ErrPermission, exitPermission},
		{kv.ErrInvalid, exitUsage},
		{kv.ErrInvalidKey, exitUsage},
		{kv.ErrTooLarge, exitUsage},
		{kv.ErrUnavailable, exitUnavailable},
		{context.DeadlineExceeded, exitUnavailable},
	} {
		if errors.Is(err, s.err) {
			return s.code
		}
	}
	return exitOther
}

// message is err as a line for people, with the command's name before it.
func message(err error) string {
	text := err.Error()
	if !strings.HasPrefix(text, "kv: ") {
		text = "kv: " + text
	}
	return text
}
