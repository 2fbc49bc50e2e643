package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// asChild is what the test binary does as the command that kv lock runs.
func asChild() {
	switch os.Getenv("KV_TEST_CHILD") {
	case "kv":
		asKV()
	case "token":
		fmt.Print(os.Getenv("KV_LOCK_TOKEN"))
		os.Exit(0)
	case "fail":
		os.Exit(42)
	case "die":
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Kill()
		}
		select {}
	case "hang":
		fmt.Println("running")
		time.Sleep(time.Minute) // until the signal
		os.Exit(0)
	case "tell":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
		fmt.Println("running")
		fmt.Println(<-signals)
		os.Exit(0)
	case "stays", "tidies", "asks":
		signals := make(chan os.Signal, 4)
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
		fmt.Println("running")
		tidy := make(<-chan time.Time)
		for {
			select {
			case s := <-signals:
				fmt.Println(s)
				switch {
				case s == syscall.SIGTERM:
					os.Exit(0)
				case os.Getenv("KV_TEST_CHILD") == "tidies":
					tidy = time.After(500 * time.Millisecond) // time enough for another signal
				case os.Getenv("KV_TEST_CHILD") == "asks":
					if kv, err := os.FindProcess(os.Getppid()); err == nil {
						_ = kv.Signal(syscall.SIGTERM)
					}
				}
			case <-tidy:
				fmt.Println("done")
				os.Exit(0)
			}
		}
	}
}

// asKV is what the test binary does as kv itself, in a process of its own.
func asKV() {
	_ = os.Setenv("KV_TEST_CHILD", os.Getenv("KV_TEST_COMMAND"))
	a := app{drivers: drivers, env: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	if d, err := time.ParseDuration(os.Getenv("KV_TEST_STOP")); err == nil {
		a.stopFor = d
	}
	os.Exit(a.start(os.Args[1:]))
}

func TestLockRunsACommand(t *testing.T) {
	each(t, func(sh shell) {
		t.Setenv("KV_TEST_CHILD", "token")
		first := sh.ok("lock jobs/nightly " + os.Args[0])
		second := sh.ok("lock -wait 0s -lease 2s jobs/nightly " + os.Args[0])
		if first == "" || first == second {
			t.Errorf("tokens %q and %q", first, second)
		}
		t.Setenv("KV_TEST_CHILD", "fail")
		out, stderr, code := sh.run(t.Context(), "", "lock", "jobs/nightly", os.Args[0])
		if out != "" || stderr != "" || code != 42 {
			t.Errorf("status %d, output %q, errors %q; want the command's status and no more", code, out, stderr)
		}
		if runtime.GOOS != "windows" { // which has no signals
			t.Setenv("KV_TEST_CHILD", "die")
			if _, stderr, code := sh.run(t.Context(), "", "lock", "jobs/nightly", os.Args[0]); stderr != "" || code != 128+9 {
				t.Errorf("status %d, errors %q of a command that was killed; want %d", code, stderr, 128+9)
			}
		}
		sh.want(exitOther, "", "lock jobs/nightly /nowhere/to/be/found")
		sh.want(exitUsage, "", "lock jobs/nightly")
		sh.want(exitUsage, "", "lock -wait -1s jobs/nightly "+os.Args[0])
	})
}

func TestLockHeldByAnother(t *testing.T) {
	sh := memory(t)
	s, err := sh.drivers(nil).Open(t.Context(), sh.url)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := lock.Lock(t.Context(), s, "jobs/nightly"); err != nil {
		t.Fatal(err)
	}
	sh.want(exitConflict, "", "lock -wait 0s jobs/nightly "+os.Args[0])
	sh.want(exitConflict, "", "lock -wait 50ms jobs/nightly "+os.Args[0])
}

// The command is interrupted, and the lock given up, when kv is.
func TestLockInterrupted(t *testing.T) {
	sh := memory(t)
	t.Setenv("KV_TEST_CHILD", "hang")
	ctx, cancel := context.WithCancel(t.Context())
	a := app{drivers: sh.drivers, env: sh.env, stdin: strings.NewReader(""), stderr: os.Stderr}
	a.stdout = writerFunc(func(b []byte) (int, error) {
		cancel() // it runs
		return len(b), nil
	})
	start := time.Now()
	if code := a.run(ctx, []string{"lock", "jobs/nightly", os.Args[0]}); code != exitInterrupted {
		t.Errorf("status %d; want %d", code, exitInterrupted)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
	t.Setenv("KV_TEST_CHILD", "token")
	sh.ok("lock -wait 0s jobs/nightly " + os.Args[0])
}

// What ends the command is the signal that also ends a shell.
func TestLockTerminates(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no signals on Windows, where a command is killed")
	}
	sh := memory(t)
	t.Setenv("KV_TEST_CHILD", "tell")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	a := app{drivers: sh.drivers, env: sh.env, stdin: strings.NewReader(""), stderr: os.Stderr}
	a.stdout = writerFunc(func(b []byte) (int, error) {
		cancel() // it runs
		return out.Write(b)
	})
	if code := a.run(ctx, []string{"lock", "jobs/nightly", os.Args[0]}); code != exitInterrupted {
		t.Errorf("status %d; want %d", code, exitInterrupted)
	}
	if want := "running\n" + syscall.SIGTERM.String() + "\n"; out.String() != want {
		t.Errorf("the command tells %q; want %q", out.String(), want)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestStatusOfALostLock(t *testing.T) {
	err := fmt.Errorf("%w: %w", kv.ErrLockLost, context.Canceled)
	if got := status(err); got != exitLockLost {
		t.Errorf("status %d; want %d", got, exitLockLost)
	}
}
