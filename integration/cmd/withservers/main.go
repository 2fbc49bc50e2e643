// Command withservers starts stores once, runs a command that uses them, and stops them:
//
//	withservers [-provider auto] [-stores etcd,consul,zookeeper,redis] [--] go test ./...
//
// The command finds each store's address in KV_TEST_<STORE>_URL, which the tests of this repository take. Provider
// containers uses the images of package containers, local runs processes as the tests do, and auto takes containers where
// Docker answers and has all images or can pull them within a minute. A store that runs already, because its variable is
// set, is left alone.
//
// The exit code is the command's, or 128 and the number of the signal that ended it; 125 if a server cannot be started.
// An interrupt or a request to end is passed on to the command, and the servers are stopped after it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/polykv/kv/integration/containers"
	"github.com/polykv/kv/internal/testserver"
)

const (
	exitUsage  = 2
	exitFailed = 125 // as of env(1) and others that run commands
)

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, signals))
}

// A server is a store that somebody has started for us.
type server interface {
	fmt.Stringer
	io.Closer
}

func run(args []string, stdout, stderr io.Writer, signals <-chan os.Signal) (code int) {
	flags := flag.NewFlagSet("withservers", flag.ContinueOnError)
	flags.SetOutput(stderr)
	provider := flags.String("provider", "auto", "auto, containers or local")
	names := flags.String("stores", "etcd,consul,zookeeper,redis", "the `stores` to start")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	if flags.NArg() == 0 || !slices.Contains([]string{"auto", "containers", "local"}, *provider) {
		fmt.Fprintln(stderr, "usage: withservers [-provider auto|containers|local] [-stores LIST] [--] COMMAND [ARGUMENT...]")
		return exitUsage
	}

	// A signal ends the start; later ones are the command's.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	early := make(chan os.Signal, 1)
	started := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case s := <-signals:
			early <- s
			cancel()
		case <-started:
		}
	}()

	stores := wanted(*names)
	if *provider == "auto" {
		*provider = choose(ctx, stores, stderr)
	}
	var running []server
	defer func() {
		for _, s := range running {
			if err := s.Close(); err != nil {
				fmt.Fprintln(stderr, "withservers:", err)
				code = max(code, 1)
			}
		}
	}()
	env := os.Environ()
	var failed error
	for _, store := range stores {
		s, url, err := start(ctx, *provider, store)
		if err != nil {
			failed = err
			break
		}
		running = append(running, s)
		env = append(env, variable(store)+"="+url)
		fmt.Fprintf(stderr, "withservers: %v at %s\n", s, url)
	}
	close(started)
	<-watched
	select {
	case s := <-early:
		return 128 + int(s.(syscall.Signal))
	default:
	}
	if failed != nil {
		fmt.Fprintln(stderr, "withservers:", failed)
		return exitFailed
	}
	return execute(flags.Args(), env, stdout, stderr, signals)
}

// wanted returns the stores of a list that do not run yet.
func wanted(list string) (stores []testserver.Store) {
	for name := range strings.SplitSeq(list, ",") {
		if store := testserver.Store(strings.TrimSpace(name)); store != "" && os.Getenv(variable(store)) == "" {
			stores = append(stores, store)
		}
	}
	return stores
}

func variable(store testserver.Store) string {
	return "KV_TEST_" + strings.ToUpper(string(store)) + "_URL"
}

// choose returns the provider for auto, and says why it is not containers.
func choose(ctx context.Context, stores []testserver.Store, stderr io.Writer) string {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var inContainers []containers.Store
	for _, store := range stores {
		inContainers = append(inContainers, containers.Store(store))
	}
	if err := containers.Available(ctx, inContainers...); err != nil {
		fmt.Fprintln(stderr, "withservers: local servers:", err)
		return "local"
	}
	return "containers"
}

func start(ctx context.Context, provider string, store testserver.Store) (_ server, url string, err error) {
	if provider == "containers" {
		s, err := containers.Run(ctx, containers.Store(store))
		if err != nil {
			return nil, "", err // not a nil *Server in an interface
		}
		return s, s.URL(""), nil
	}
	s, err := testserver.Launch(ctx, testserver.Spec{Store: store})
	if err != nil {
		return nil, "", err
	}
	return s, s.URL(), nil
}

// execute runs the command, passes signals on to it and returns its exit code.
func execute(argv, env []string, stdout, stderr io.Writer, signals <-chan os.Signal) int {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, stdout, stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, "withservers:", err)
		return exitFailed
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			// From a terminal the command has had it already. Once more does not hurt, and others send it to us alone.
			_ = cmd.Process.Signal(s) // it fails only if the command has just ended
		case err := <-ended:
			var exit *exec.ExitError
			switch {
			case err == nil:
				return 0
			case !errors.As(err, &exit):
				fmt.Fprintln(stderr, "withservers:", err)
				return exitFailed
			}
			if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				return 128 + int(status.Signal())
			}
			return exit.ExitCode()
		}
	}
}
