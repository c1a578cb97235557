//! Who runs the requirements, and how. Their names are listed here, once.

/// Makes a test of each requirement. The argument is an expression that gives a new
/// `Arc<dyn Engine>` and may await. The crate that uses it depends on tokio.
#[macro_export]
macro_rules! conformance_tests {
    ($engine:expr) => {
        $crate::conformance_requirements! { conformance_each_a_test $engine }
    };
}

/// Calls one of the macros below with the names of all requirements.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_requirements {
    ($then:ident $argument:expr) => {
        $crate::$then! { $argument =>
            a_message_reaches_every_subscriber_and_nobody_else
            a_slow_subscriber_loses_messages_and_is_told_how_many
            a_request_is_answered_by_one_of_the_servers
            a_request_without_a_server_fails_at_once
            a_request_that_is_dropped_or_forgotten_has_no_answer
            too_large_values_are_refused_and_not_written
            appended_entries_come_in_order_to_every_tail
            a_tail_begins_after_the_offset_that_it_is_given
            an_append_wins_only_with_the_right_expectation
            of_contending_appends_one_wins_per_offset
            a_snapshot_stands_for_the_entries_before_it
            a_large_snapshot_is_read_whole_and_one_that_is_too_large_is_refused
            a_snapshot_whose_writer_dies_is_never_read_in_part
            of_two_snapshots_at_the_same_time_one_is_read_whole
            a_retired_log_goes_on_after_its_last_entry
            who_reads_a_retired_log_for_the_first_time_can_append_to_it
            of_a_retired_log_nothing_is_left
            logs_do_not_share_entries
            a_value_changes_only_from_its_revision
            revisions_grow_over_deletion
            of_contending_writers_one_wins_per_revision
            of_contending_creators_one_wins
            a_lease_ends_unless_it_is_renewed
            of_contending_takers_of_a_lease_one_wins_and_its_revision_fences
            a_watch_reads_what_is_there_and_follows_changes
            a_watch_reads_more_values_than_may_wait
            a_slow_watch_is_reset_and_ends_up_with_what_is_there
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_each_a_test {
    ($engine:expr => $($name:ident)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::conformance::$name($engine).await;
            }
        )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_one_after_the_other {
    ($engine:expr => $($name:ident)*) => {
        $( $crate::conformance::$name($engine(stringify!($name)).await).await; )*
    };
}
