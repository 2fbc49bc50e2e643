package main

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A value that does not end is given up when the user says so.
func TestInterruptedWhileReading(t *testing.T) {
	for _, name := range []string{"put", "create"} {
		sh := memory(t)
		ctx, cancel := context.WithCancel(t.Context())
		r, w := io.Pipe()
		a := app{drivers: sh.drivers, env: sh.env, stdin: r, stdout: io.Discard, stderr: io.Discard}
		code := make(chan int, 1)
		go func() { code <- a.run(ctx, []string{name, "k"}) }()
		if _, err := w.Write([]byte("the beginning of a value")); err != nil { // returns once that was read
			t.Fatal(err)
		}
		cancel()
		select {
		case got := <-code:
			if got != exitInterrupted {
				t.Errorf("kv %s: status %d; want %d", name, got, exitInterrupted)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("kv %s goes on reading", name)
		}
		w.Close()
		sh.want(exitNotFound, "", "get k")
	}
}

// slow is an input that takes its time.
type slow struct{ io.Reader }

func (s slow) Read(b []byte) (int, error) {
	time.Sleep(time.Minute) // virtual time
	return s.Reader.Read(b)
}

// The time limit is the store's, not that of a program whose output is put.
func TestTimeLimitBeginsBehindTheInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := memory(t)
		a := app{drivers: sh.drivers, env: sh.env, stdin: slow{strings.NewReader("late")}, stdout: io.Discard, stderr: io.Discard}
		if code := a.run(t.Context(), []string{"put", "k"}); code != exitOK {
			t.Errorf("status %d; want %d", code, exitOK)
		}
		sh.want(exitOK, "late", "get k")
	})
}
