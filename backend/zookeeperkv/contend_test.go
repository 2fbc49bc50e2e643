package zookeeperkv

import "testing"

// A lock that is never idle for a minute keeps its directory, whose counter has 32 bits and begins again below zero.
func TestQueueOrder(t *testing.T) {
	queue := places([]string{
		"x-C--2147483648", "version", "x-A-2147483646", "s-B-2147483647", "n4-D--2147483647", "x-E-not a number", "x-F",
	})
	want := []place{
		{name: "x-A-2147483646"}, {name: "s-B-2147483647"}, {name: "x-C--2147483648"}, {name: "n4-D--2147483647"},
	}
	if len(queue) != len(want) {
		t.Fatalf("%d places, want %d: %+v", len(queue), len(want), queue)
	}
	for i, p := range queue {
		if p.name != want[i].name {
			t.Errorf("place %d is %q, want %q", i, p.name, want[i].name)
		}
	}
	if !queue[1].Shared || queue[3].Slots != 4 || queue[0].Shared || queue[0].Slots > 1 {
		t.Errorf("kinds: %+v", queue)
	}
}
