package etcdkv

import (
	"strconv"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
)

// The queue of a lock is a range of keys below Meta/lock/NAME//, one for each
// contender, ordered by the revision that created it. No lock's name has two
// slashes in a row, so the ranges of two names never meet. A contender's key
// says in its name how it takes part, and of which store it is:
//
//	x-K5QZ…-0    exclusive
//	r-K5QZ…-1    shared
//	s4-K5QZ…-2   while fewer than four are ahead
//
// The number is used again when its contender has left. For etcd keeps every
// key that ever was in its index until it is compacted, and a look at a queue
// goes through them all: with a new name each time, a lock that was taken 3000
// times took a third longer, and ever longer.
func (s *Store) queue(name string) string { return s.space.Meta() + "/lock/" + name + "//" }

func (s *Store) seatID(o backend.ContendOptions, number int) string {
	kind := "x"
	switch {
	case o.Shared:
		kind = "r"
	case o.Slots > 1:
		kind = "s" + strconv.Itoa(o.Slots)
	}
	return kind + "-" + s.instance + "-" + strconv.Itoa(number)
}

// seatNumbers gives out the numbers of a store's contenders. A number comes
// back only when nothing that names it can still be on its way to the server.
type seatNumbers struct {
	mu   sync.Mutex
	free []int
	next int
}

func (n *seatNumbers) take() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if last := len(n.free) - 1; last >= 0 {
		number := n.free[last]
		n.free = n.free[:last]
		return number
	}
	n.next++
	return n.next - 1
}

func (n *seatNumbers) put(number int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.free = append(n.free, number)
}

// placeOf reads a contender's ID. What it does not understand is taken for the
// kind that excludes the others.
func placeOf(id string) backend.Place {
	kind, _, _ := strings.Cut(id, "-")
	if kind == "r" {
		return backend.Place{Shared: true}
	}
	if n, ok := strings.CutPrefix(kind, "s"); ok {
		if slots, err := strconv.Atoi(n); err == nil && slots > 1 {
			return backend.Place{Slots: slots}
		}
	}
	return backend.Place{}
}

func allSeats(queue string) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: []byte(queue), RangeEnd: after(queue), KeysOnly: true,
		SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND,
	}
}
