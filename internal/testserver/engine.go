package testserver

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// An Engine runs the nodes of one server. Launch runs them as processes of this machine; LaunchIn leaves it to another
// package, which may use containers. Place is called first, then Start for every node, Host, and at the end Close, when
// every process has been killed.
type Engine interface {
	// Name says in a word or two who runs the server.
	Name() string

	// Listen is the address on which servers listen for clients.
	Listen() string

	// Place readies what the nodes have in common. Their files are written.
	Place(ctx context.Context, l Layout) error

	// Start runs node i, again with what it had written if it has run before. It returns when the process runs, which is
	// before it serves.
	Start(ctx context.Context, i int) (Process, error)

	// Host is where clients reach the ports of the nodes, which run.
	Host(ctx context.Context) (string, error)

	// Log returns the end of what node i has written to its standard output and error, or why it cannot.
	Log(i int) string

	// Close removes what Place and Start have made. It is idempotent.
	Close() error
}

// A Process is one run of a node. Its signals give os.ErrProcessDone if it has ended.
type Process interface {
	Kill() error                    // ends it at once, a paused one too
	Terminate() error               // asks it to end
	Pause() error                   // returns when it does nothing any more; its connections stay open
	Resume() error                  // lets it go on; no error if it was not paused
	Running() bool                  // tells whether it has not ended
	Wait(ctx context.Context) error // returns when it has ended
	State() string                  // says how it ended
}

// A Layout is what an Engine runs.
type Layout struct {
	Spec  Spec
	Dir   string // of the nodes' files, which name it. It is locked while the server's owner lives; see Abandoned.
	Nodes []LayoutNode
}

// A LayoutNode is one node of a Layout.
type LayoutNode struct {
	Name string
	Dir  string   // below Layout.Dir
	Args []string // that follow the command which runs any server of the kind
	Port int      // of clients; the same inside and outside
}

// local runs nodes as processes of this machine.
type local struct {
	argv  []string // the command
	nodes []LayoutNode
}

func (*local) Name() string                         { return "local" }
func (*local) Listen() string                       { return loopbackHost }
func (*local) Host(context.Context) (string, error) { return loopbackHost, nil }
func (*local) Close() error                         { return nil }

func (l *local) Place(_ context.Context, layout Layout) error {
	l.nodes = layout.Nodes
	return nil
}

func (l *local) logFile(i int) string { return filepath.Join(l.nodes[i].Dir, "server.log") }

func (l *local) Start(_ context.Context, i int) (Process, error) { return l.run(l.argv, i) }

// run runs node i by a command.
func (l *local) run(argv []string, i int) (Process, error) {
	log, err := os.OpenFile(l.logFile(i), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own copy
	cmd := exec.Command(argv[0], append(argv[1:len(argv):len(argv)], l.nodes[i].Args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.nodes[i].Dir, log, log
	p, err := startProcess(cmd)
	if err != nil {
		return nil, err // not a nil *process in an interface
	}
	return p, nil
}

// Log returns the last few kilobytes of the log.
func (l *local) Log(i int) string {
	const size = 4 << 10
	f, err := os.Open(l.logFile(i))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > size {
		_, _ = f.Seek(-size, io.SeekEnd) // fails only where the first one does
	} else {
		_, _ = f.Seek(0, io.SeekStart)
	}
	tail, err := io.ReadAll(io.LimitReader(f, size))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(tail))
}
