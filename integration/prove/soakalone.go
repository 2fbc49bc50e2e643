package prove

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/polykv/kv/internal/testserver"
)

// In the environment of a process that soaks a target: which one, and for how long.
const (
	soakOf  = "KV_PROVE_SOAK"
	soakFor = "KV_PROVE_SOAK_TIME"
)

// soaked is what such a process says on its standard output.
type soaked struct {
	Result  SoakResult
	Err     string `json:",omitempty"`
	Missing bool   `json:",omitempty"` // the target cannot be had here
}

// soakAlone soaks a target in a process of its own: what the process holds is what is counted, so that others can be soaked
// beside it. The end of ctx interrupts the process, which then puts everything away.
func soakAlone(ctx context.Context, target string, d time.Duration) (SoakResult, error) {
	self, err := os.Executable()
	if err != nil {
		return SoakResult{}, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), soakOf+"="+target, soakFor+"="+d.String())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return SoakResult{}, fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	var s soaked
	if err := json.Unmarshal(out, &s); err != nil {
		return SoakResult{}, fmt.Errorf("the soak says %q: %w", out, err)
	}
	switch {
	case s.Missing:
		err = fmt.Errorf("%w: %s", testserver.ErrUnavailable, s.Err)
	case s.Err != "":
		err = errors.New(s.Err)
	}
	return s.Result, err
}

// soakChild is that process.
func soakChild() error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	d, err := time.ParseDuration(os.Getenv(soakFor))
	if err != nil {
		return err
	}
	all, name := Openers(), os.Getenv(soakOf)
	i := slices.IndexFunc(all, func(o Opener) bool { return o.Name == name })
	if i < 0 {
		return fmt.Errorf("there is no target %q", name)
	}
	var s soaked
	target, err := all[i].Open(ctx)
	if err == nil {
		s.Result, err = Soak(ctx, target, d)
		err = errors.Join(err, target.Close())
	}
	if err != nil {
		s.Err, s.Missing = err.Error(), errors.Is(err, testserver.ErrUnavailable)
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}
