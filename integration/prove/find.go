package prove

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// A checker that cannot fail proves nothing. What follows are situations in which a store keeps less than the model
// demands, as its capabilities and their documentation say, and in which the checker must therefore find something.

// scene is a history that is made step by step.
type scene struct {
	h   *history
	dir string
	n   int
}

func newScene(name string) *scene {
	return &scene{h: newHistory(), dir: fmt.Sprintf("find/%s%d", name, time.Now().UnixNano())}
}

func (s *scene) client(l *link) *client {
	s.n++
	return newClient(s.n, 1, storeCaller{l.Store}, s.h, s.dir)
}

func (s *scene) put(c *client, value string) Input {
	return Input{Op: opPut, Dir: s.dir, Family: famShared, Writes: []Write{{Value: value}}}
}

func (s *scene) get(stale bool) Input {
	return Input{Op: opGet, Dir: s.dir, Family: famShared, Reads: []int{0}, Stale: stale}
}

// judge is what the checker says of the history so far.
func (s *scene) judge(name, dir string) []Violation {
	j := &judge{name: name, dir: dir, patience: 10 * time.Second, h: s.h}
	j.linearizable(s.h.settled())
	return append(j.found, j.unchecked...)
}

// findLostWrite lets a primary acknowledge a write that its replicas do not have, and dies with it.
func (a *redisAdmin) findLostWrite(ctx context.Context, p *Plan) (_ string, err error) {
	if err := a.settle(ctx); err != nil {
		return "", err
	}
	l, err := a.t.connect(ctx, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s := newScene("lost")
	c := s.client(l)
	must := func(out Output) error {
		if out.Status != done {
			return fmt.Errorf("the rig: %s", out.Reason)
		}
		return nil
	}
	if err := must(c.make(ctx, s.put(c, "kept"), 10*time.Second)); err != nil {
		return "", err
	}
	if found := s.judge("before", ""); len(found) > 0 {
		return "", fmt.Errorf("found before anything happened: %v", found)
	}
	primary, replicas, err := a.roles(ctx)
	if err != nil {
		return "", err
	}
	if err := eventually(ctx, 10*time.Second, func(ctx context.Context) error { // the replicas have the first one
		return a.at(a.t.server.NodeAddr(primary), func(c *redis.Client) error { return c.Wait(ctx, len(replicas), time.Second).Err() })
	}); err != nil {
		return "", err
	}
	srv := a.t.server
	if err := srv.Pause(replicas...); err != nil {
		return "", err
	}
	// What has been sent would be read after the pause: the connections have to go as well.
	err = a.at(srv.NodeAddr(primary), func(c *redis.Client) error { return c.ClientKillByFilter(ctx, "TYPE", "replica").Err() })
	if err == nil {
		err = must(c.make(ctx, s.put(c, "lost"), 10*time.Second))
	}
	err = errors.Join(err, srv.Kill(primary), srv.Resume(replicas...))
	if err != nil {
		return "", err
	}
	// Each time with a new client: how long one that was there before holds on to the dead is a matter of its own.
	if err := eventually(ctx, time.Minute, func(ctx context.Context) error {
		later, err := a.t.connect(ctx, 1)
		if err != nil {
			return err
		}
		return errors.Join(must(s.client(later).make(ctx, s.get(false), 3*time.Second)), later.Close())
	}); err != nil {
		now, _, at := a.roles(context.WithoutCancel(ctx))
		return "", fmt.Errorf("after the kill of node %d; now node %d is the primary (%w): %w", primary, now, at, err)
	}
	if err := errors.Join(srv.Restart(ctx, primary), a.settle(ctx)); err != nil {
		return "", err
	}
	found := s.judge(a.t.Name+"-lost-write", p.Dir)
	if len(found) == 0 {
		return "", errors.New("a write that a failover lost was not noticed")
	}
	return "a write that was acknowledged and that a failover lost: " + found[0].What, nil
}

// findStaleRead reads from a follower that was stopped while others wrote: with Stale an old value, which has to be
// found, and without it never.
func (a *zooAdmin) findStaleRead(ctx context.Context, t *Target, p *Plan) (_ string, err error) {
	leader, err := a.leader(ctx, nil)
	if err != nil {
		return "", err
	}
	follower := (leader[0] + 1) % len(a.addrs)
	var links []*link
	defer func() {
		for _, l := range links {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, node := range []int{leader[0], follower} {
		n, err := newNetwork([]string{a.addrs[node]})
		if err != nil {
			return "", err
		}
		s, closing, err := t.open(ctx, n)
		if err != nil {
			return "", errors.Join(err, n.close())
		}
		links = append(links, &link{Store: s, net: n, close: closing})
	}
	try := func(s *scene, stale bool, tries int) (found []Violation, n int, err error) {
		writer, reader := s.client(links[0]), s.client(links[1])
		for n = range tries {
			if out := writer.make(ctx, s.put(writer, fmt.Sprintf("old%d", n)), 10*time.Second); out.Status != done {
				return nil, n, fmt.Errorf("the rig: %s", out.Reason)
			}
			if out := reader.make(ctx, s.get(false), 10*time.Second); out.Status != done {
				return nil, n, fmt.Errorf("the rig: %s", out.Reason)
			}
			if err := t.server.Pause(follower); err != nil {
				return nil, n, err
			}
			out := writer.make(ctx, s.put(writer, fmt.Sprintf("new%d", n)), 10*time.Second)
			read := make(chan Output)
			go func() { read <- reader.make(ctx, s.get(stale), 10*time.Second) }()
			time.Sleep(30 * time.Millisecond) // the request waits at the server's door by then; if not, the next try will do
			if err := t.server.Resume(follower); err != nil {
				<-read
				return nil, n, err
			}
			if got := <-read; out.Status != done || got.Status != done {
				return nil, n, fmt.Errorf("the rig: %s %s", out.Reason, got.Reason)
			}
			if found = s.judge(t.Name+"-stale-read", p.Dir); len(found) > 0 {
				return found, n, nil
			}
		}
		return nil, tries, nil
	}
	if found, _, err := try(newScene("fresh"), false, 10); err != nil || len(found) > 0 {
		return "", fmt.Errorf("reads without Stale: %v (%w)", found, err)
	}
	found, n, err := try(newScene("stale"), true, 100)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no stale read was noticed in %d tries", n)
	}
	return fmt.Sprintf("a Stale read of a follower that was stopped (try %d), and none without Stale: %s", n+1, found[0].What), nil
}
