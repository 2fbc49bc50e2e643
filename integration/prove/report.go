package prove

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is the page that docs/proof.md is.
func (p *Plan) Report(tallies []Tally, when time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Proof\n\n"+
		"Written by `make prove` on %s with seed %d: do not edit. What is done and how it is judged is in the comment of\n"+
		"`integration/prove`; `go run ./cmd/prove -seed %d` in `integration` injects the same faults.\n\n",
		when.UTC().Format("2006-01-02"), p.Seed, p.Seed)
	b.WriteString("| target | version | operations | rounds | watches | events | locks held | fenced writes | refused late writes | violations | not checked | excused |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	perStore := map[string]int{}
	for _, t := range tallies {
		perStore[t.Store] += t.Ops
		violations := fmt.Sprint(len(t.Violations))
		if t.Ops == 0 {
			violations = "not run"
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %s | %d | %d |\n",
			t.Target, cmp.Or(t.Version, "–"), t.Ops, t.Rounds, t.Watches, t.Events, t.Locks, t.Fenced, t.Late, violations, len(t.Unchecked), len(t.Exempt))
	}
	b.WriteString("\n\"Excused\" are histories that a capability, or its documentation, excuses: writes that a failover of Redis loses\n" +
		"(`DurableFence`), and reads from a leader of ZooKeeper that does not know that it has been replaced.\n\n## Operations by store\n\n| store | operations |\n|---|--:|\n")
	for _, s := range slices.Sorted(maps.Keys(perStore)) {
		fmt.Fprintf(&b, "| %s | %d |\n", s, perStore[s])
	}
	b.WriteString("\n## Faults\n\nHow often each was injected. A dash: the fault makes no sense on the target, or another one takes its place.\n\n")
	b.WriteString(faultTable(tallies))
	section := func(title, column string, of func(Tally) string) {
		head := false
		for _, t := range tallies {
			if text := of(t); text != "" {
				if !head {
					fmt.Fprintf(&b, "\n## %s\n\n| target | %s |\n|---|---|\n", title, column)
					head = true
				}
				fmt.Fprintf(&b, "| %s | %s |\n", t.Target, strings.ReplaceAll(strings.ReplaceAll(text, "|", "/"), "\n", " "))
			}
		}
	}
	section("What the checker found when told to expect more than is promised", "found", func(t Tally) string { return t.Found })
	section("Soak", "first and last", func(t Tally) string { return t.Soak })
	section("Violations", "what", func(t Tally) string {
		var words []string
		for _, v := range t.Violations {
			words = append(words, v.What)
		}
		return strings.Join(words, "; ")
	})
	section("Not checked", "what", func(t Tally) string {
		var words []string
		for _, v := range t.Unchecked {
			words = append(words, v.What)
		}
		return strings.Join(words, "; ")
	})
	section("Not run, or not to the end", "why", func(t Tally) string {
		if t.Err == nil {
			return ""
		}
		// The rest are the ends of servers' logs, which were printed as it happened, and what came of the first.
		first, _, _ := strings.Cut(t.Err.Error(), "\n")
		return first
	})
	return b.String()
}

// faultTable tells of each fault and each target how often it was injected there.
func faultTable(tallies []Tally) string {
	var b strings.Builder
	names := map[string]bool{}
	b.WriteString("| fault |")
	for _, t := range tallies {
		fmt.Fprintf(&b, " %s |", t.Target)
		for f := range t.Faults {
			names[f] = true
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(tallies)) + "\n")
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, t := range tallies {
			n, has := t.Faults[name]
			switch {
			case !has:
				b.WriteString(" – |")
			case t.Skipped[name] != "":
				b.WriteString(" skipped |")
			default:
				fmt.Fprintf(&b, " %d |", n)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
