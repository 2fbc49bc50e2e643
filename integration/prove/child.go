package prove

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// childFile names, in the environment of a process that is to be killed, the bbolt file that it serves.
const childFile = "KV_PROVE_CHILD"

// IsChild reports whether this process was started by another one, in order to be killed by a round or to soak a target:
// main, or TestMain, then runs Child and nothing else.
func IsChild() bool { return os.Getenv(childFile) != "" || os.Getenv(soakOf) != "" }

// request is a line to the child.
type request struct {
	ID      int
	In      Input
	Timeout time.Duration
	Watch   string `json:",omitempty"` // instead: watch this prefix
	Token   kv.Token
}

// response is a line from the child.
type response struct {
	ID    int            `json:",omitempty"`
	Out   Output         `json:",omitzero"`
	Event *backend.Event `json:",omitempty"`
	Err   string         `json:",omitempty"`
}

// Child serves the operations that it reads from its standard input, until it is killed or the input ends; or it soaks. It
// returns the exit code.
func Child() int {
	do := func() error { return serve(os.Getenv(childFile), os.Stdin, os.Stdout) }
	if os.Getenv(soakOf) != "" {
		do = soakChild
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "prove: child:", err)
		return 1
	}
	return 0
}

func serve(file string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b, err := openBolt(ctx, file)
	if err != nil {
		return err
	}
	s := kv.New(b)
	defer s.Close()
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	say := func(r response) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(r) // who does not listen has killed us
	}
	say(response{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	dec := json.NewDecoder(in)
	for {
		var r request
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		wg.Go(func() {
			if r.Watch != "" {
				say(response{Err: tell(ctx, s, r, say).Error()})
				return
			}
			ctx, cancel := context.WithTimeout(ctx, r.Timeout)
			defer cancel()
			say(response{ID: r.ID, Out: storeCaller{s}.call(ctx, r.In)})
		})
	}
}

// tell says what a watch tells, and returns why it ended.
func tell(ctx context.Context, s *kv.Store, r request, say func(response)) error {
	opts := []kv.WatchOption{kv.WithPrev(), kv.FromSnapshot()}
	if r.Token != "" {
		opts[1] = kv.Resume(r.Token)
	}
	w, err := s.Watch(ctx, r.Watch, opts...)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		ev, err := w.Next(ctx)
		if err != nil {
			return err
		}
		told := toBackend(ev)
		say(response{Event: &told})
	}
}

// process is a child, or the place of one. It is the caller of a round's clients.
type process struct {
	file, dir string
	w         *watcher
	h         *history

	mu      sync.Mutex
	cmd     *exec.Cmd // nil while there is none
	in      io.WriteCloser
	enc     *json.Encoder
	next    int
	waiting map[int]chan Output
	ended   chan struct{} // closed when the reader of this child has ended
}

// start starts a child, which goes on where the watch of the last one was.
func (p *process) start() error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childFile+"="+p.file)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadBytes('\n'); err != nil {
		_ = cmd.Process.Kill()
		return errors.Join(fmt.Errorf("the child does not open its file: %w", err), cmd.Wait())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.in, p.enc, p.waiting, p.ended = cmd, in, json.NewEncoder(in), map[int]chan Output{}, make(chan struct{})
	go p.read(lines, p.waiting, p.ended)
	return p.enc.Encode(request{Watch: p.dir, Token: p.w.token})
}

// read hands on what a child says until it says no more; what it has not answered then is open.
func (p *process) read(lines io.Reader, waiting map[int]chan Output, ended chan struct{}) {
	defer close(ended)
	dec := json.NewDecoder(lines)
	for going := true; ; {
		var r response
		if err := dec.Decode(&r); err != nil {
			break // also in the middle of a line: it was killed
		}
		switch {
		case r.Err != "":
			p.h.fail("%s: %s", p.w.name, r.Err)
		case r.Event != nil:
			going = going && p.w.take(*r.Event)
		default:
			p.mu.Lock()
			ch := waiting[r.ID]
			delete(waiting, r.ID)
			p.mu.Unlock()
			if ch != nil {
				ch <- r.Out
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, ch := range waiting {
		ch <- Output{Status: open}
		delete(waiting, id)
	}
}

// kill ends the child with SIGKILL.
func (p *process) kill() error {
	p.mu.Lock()
	cmd, in, ended := p.cmd, p.in, p.ended
	p.cmd, p.enc = nil, nil
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	err := cmd.Process.Kill()
	<-ended
	in.Close()
	_ = cmd.Wait() // "signal: killed"
	return err
}

// call implements caller. The child keeps to the time of ctx.
func (p *process) call(ctx context.Context, in Input) Output {
	deadline, _ := ctx.Deadline()
	ch := make(chan Output, 1)
	p.mu.Lock()
	if p.enc == nil {
		p.mu.Unlock()
		return Output{Status: never, Reason: "no child"}
	}
	p.next++
	id := p.next
	p.waiting[id] = ch
	err := p.enc.Encode(request{ID: id, In: in, Timeout: time.Until(deadline)})
	if err != nil {
		delete(p.waiting, id)
	}
	p.mu.Unlock()
	if err != nil {
		return Output{Status: open, Reason: err.Error()}
	}
	select {
	case out := <-ch:
		return out
	case <-time.After(time.Until(deadline) + 10*time.Second):
		return Output{Status: broken, Reason: "a call does not return after its time"}
	}
}
