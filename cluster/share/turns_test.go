package share

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// A client with a hundred copies gets as many turns as one with a single copy, and a client's own are in their order.
func TestTurnsGoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1)
		turns.Take("holder")
		var order []string // of whoever has the turn
		want := func(client string, i int) {
			go func() {
				turns.Take(client)
				order = append(order, fmt.Sprint(client, i))
				turns.Free()
			}()
			synctest.Wait() // it waits in the queue now
		}
		for i := range 100 {
			want("a", i)
		}
		want("b", 0)
		want("c", 0)
		want("b", 1)
		if turns.Waiting() != 103 {
			t.Fatalf("%d wait, want 103", turns.Waiting())
		}
		turns.Free()
		synctest.Wait()
		if got := order[:6]; !slices.Equal(got, []string{"a0", "b0", "c0", "a1", "b1", "a2"}) {
			t.Errorf("the first turns went to %v", got)
		}
		if len(order) != 103 || order[102] != "a99" {
			t.Errorf("%d turns, the last %v", len(order), order[len(order)-1])
		}
		if turns.Waiting() != 0 || turns.free != 1 || len(turns.queues) != 0 || turns.next.Len() != 0 {
			t.Errorf("something is left: %+v", turns)
		}
	})
}

// There are never more turns than were made.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, more := NewTurns(3), make(chan struct{})
		running := 0
		for i := range 20 {
			go func() {
				turns.Take(fmt.Sprint(i % 4))
				running++
				<-more
				running--
				turns.Free()
			}()
			synctest.Wait()
		}
		for range 20 {
			if running > 3 {
				t.Fatalf("%d have a turn", running)
			}
			more <- struct{}{}
			synctest.Wait()
		}
		if running != 0 {
			t.Errorf("%d still have a turn", running)
		}
	})
}
