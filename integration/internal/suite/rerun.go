package suite

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// process names the suites that this test binary, run again, runs.
const process = "KV_SUITE_PROCESS"

// Result is what a test said of its cases, which have no cases of their own.
type Result struct {
	Passed, Failed, Skipped []string
	Output                  map[string]string // of a case
	err                     error
	text                    string
}

// Child tells whether this process was made by Rerun with the name, and is to run the suites; other is true if it has
// been made for others.
func Child(name string) (child, other bool) {
	given := os.Getenv(process)
	return given == name, given != "" && given != name
}

// Rerun runs the calling test in a process of its own, with Child(name) true. The suites look for goroutines that are
// left over, so nothing can run beside them in one process.
func Rerun(t *testing.T, name string) Result {
	t.Helper()
	top, _, _ := strings.Cut(t.Name(), "/")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+top+"$", "-test.v", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), process+"="+name)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	r := Result{Output: make(map[string]string), err: err, text: string(out)}
	r.parse()
	t.Logf("%s: %d cases passed, %d failed, %d skipped, in %v", name, len(r.Passed), len(r.Failed), len(r.Skipped), time.Since(begin).Round(time.Second))
	return r
}

var (
	event   = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) +(.*)$`)
	verdict = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (.*) \([0-9.]+s\)$`)
	lacking = regexp.MustCompile(`not run, because the harness has no .*`)
)

func (r *Result) parse() {
	current, parents := "", make(map[string]bool)
	verdicts := make(map[string]string)
	var order []string
	for line := range strings.Lines(r.text) {
		line = strings.TrimSuffix(line, "\n")
		if m := event.FindStringSubmatch(line); m != nil {
			current = m[2]
		} else if m := verdict.FindStringSubmatch(line); m != nil {
			verdicts[m[2]] = m[1]
			order = append(order, m[2])
		} else {
			r.Output[current] += line + "\n"
		}
	}
	for _, name := range order {
		for i := range name {
			if name[i] == '/' {
				parents[name[:i]] = true
			}
		}
	}
	for _, name := range order {
		switch {
		case parents[name]:
		case verdicts[name] == "PASS":
			r.Passed = append(r.Passed, name)
		case verdicts[name] == "FAIL":
			r.Failed = append(r.Failed, name)
		default:
			r.Skipped = append(r.Skipped, name)
		}
	}
	r.Skipped = append(r.Skipped, lacking.FindAllString(r.text, -1)...)
}

// Complete reports whether every case has passed, and all were run.
func (r Result) Complete(t *testing.T) {
	t.Helper()
	if r.err != nil && len(r.Failed) == 0 {
		t.Errorf("%v\n%s", r.err, r.text)
	}
	r.each(t, r.Failed)
	r.ran(t)
}

// Refused reports whether every case has passed but those that say why they cannot: their output holds the reason.
func (r Result) Refused(t *testing.T, reason string) {
	t.Helper()
	var exit *exec.ExitError
	if r.err != nil && !errors.As(r.err, &exit) {
		t.Error(r.err)
	}
	var failed []string
	for _, name := range r.Failed {
		if !strings.Contains(r.Output[name], reason) {
			failed = append(failed, name)
		}
	}
	r.each(t, failed)
	if len(r.Failed) == 0 {
		t.Errorf("nothing was refused with %q", reason)
	}
	r.ran(t)
}

func (r Result) each(t *testing.T, failed []string) {
	t.Helper()
	for _, name := range failed {
		t.Errorf("%s\n%s", name, r.Output[name])
	}
}

// ran makes a run that was cut short, or that left cases out, a failure.
func (r Result) ran(t *testing.T) {
	t.Helper()
	const least = 150 // of the cases of both suites
	if n := len(r.Passed) + len(r.Failed); n < least {
		t.Errorf("only %d cases were run:\n%s", n, r.text)
	}
	for _, what := range r.Skipped {
		t.Errorf("left out: %s", what)
	}
}
