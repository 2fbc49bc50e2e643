package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// watching is a watch command that runs.
type watching struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
	code   chan int
}

func (sh shell) watch(args ...string) *watching {
	ctx, cancel := context.WithCancel(sh.t.Context())
	r, w := io.Pipe()
	wt := &watching{t: sh.t, lines: bufio.NewScanner(r), cancel: cancel, code: make(chan int, 1)}
	go func() {
		a := app{drivers: sh.drivers, env: sh.env, stdout: w, stderr: io.Discard}
		wt.code <- a.run(ctx, append([]string{"watch"}, args...))
		w.Close()
	}()
	return wt
}

// next returns the next line, without the revision that is its second field.
func (w *watching) next() string {
	w.t.Helper()
	if !w.lines.Scan() {
		w.t.Fatalf("the watch ended: %v", w.lines.Err())
	}
	fields := strings.Split(w.lines.Text(), "\t")
	if len(fields) > 1 {
		fields = append(fields[:1], fields[2:]...)
	}
	return strings.Join(fields, " ")
}

func (w *watching) want(lines ...string) {
	w.t.Helper()
	for _, line := range lines {
		if got := w.next(); got != line {
			w.t.Errorf("got %q; want %q", got, line)
		}
	}
}

func (w *watching) interrupt() {
	w.t.Helper()
	w.cancel()
	for w.lines.Scan() {
		w.t.Errorf("another line: %s", w.lines.Text())
	}
	if code := <-w.code; code != exitInterrupted {
		w.t.Errorf("status %d; want %d", code, exitInterrupted)
	}
}

func TestWatch(t *testing.T) {
	sh := memory(t)
	sh.ok("put a/1 old")
	w := sh.watch("-snapshot", "a")
	w.want("existing a/1 old", "synced")
	sh.ok("put a/1 new")
	sh.ok("put b elsewhere")
	if _, _, code := sh.run(t.Context(), "two\nlines", "put", "a/2"); code != exitOK {
		t.Fatal("put")
	}
	sh.ok("delete a/1")
	w.want("updated a/1 new", `created a/2 "two\nlines"`, "deleted a/1")
	w.interrupt()
}

// The token of an event continues behind it, in another run of the command.
func TestWatchResumes(t *testing.T) {
	sh := memory(t)
	w := sh.watch("-snapshot", "-key", "-json", "k")
	if ev := w.json(); ev.Kind != "synced" || ev.Key != "" {
		t.Errorf("the first event: %+v", ev)
	}
	sh.ok("put k one")
	ev := w.json()
	if ev.Kind != "created" || ev.Key != "k" || ev.Value == nil || *ev.Value != "one" || ev.Revision == 0 {
		t.Errorf("created: %+v", ev)
	}
	w.interrupt()

	sh.ok("put k two")
	sh.ok("delete k")
	w = sh.watch("-key", "-resume", ev.Token, "k")
	w.want("updated k two", "deleted k")
	w.interrupt()

	sh.want(exitUsage, "", "watch -resume garbage k")
	sh.want(exitUsage, "", "watch -snapshot -resume "+ev.Token+" k")
}

func (w *watching) json() (r jsonRecord) {
	w.t.Helper()
	if !w.lines.Scan() {
		w.t.Fatalf("the watch ended: %v", w.lines.Err())
	}
	if err := json.Unmarshal(w.lines.Bytes(), &r); err != nil {
		w.t.Fatal(err)
	}
	return r
}
