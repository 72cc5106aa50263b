"""Tests that run with the slow ones, because the default tests keep the same promise once: of another kind, method, library or
moment, or one floor further down. The list holds what takes longest; a test that is dear in itself bears the mark `slow`.
"""

REPETITIONS = """
    test_repairs::test_a_repaired_module_is_one_graph
    test_repairs::test_the_same_weights_in_another_library_get_the_same_repair
    test_repairs::test_every_method_keeps_every_promise[position-rows]
    test_outliers_found::test_they_are_the_scans[low-norm]
    test_outliers_found::test_they_are_the_scans[last-block]
    test_outliers_found::test_batches_and_devices_do_not_change_what_is_found
    test_mask_keys::test_planted_sinks_get_no_attention_from_patches
    test_position_rows::test_outliers_that_follow_the_image_are_no_rows_work
    test_substituted_outliers::test_it_restores_planted_outliers[lof]
    test_substituted_outliers::test_at_the_output_only_earlier_blocks_keep_them
    test_substituted_outliers::test_the_published_form_acts_after_the_last_block_but_one
    test_auto::test_none_is_kept_where_all_do_too_much_damage
    test_causal_study::test_a_twin_stands_beside
    test_causal_task::test_batches_do_not_matter
    test_exports::test_timm_alone_opens_a_model_repaired_in_its_weights[ours-position-rows]
    test_exports::test_transformers_alone_opens_a_model_repaired_in_its_weights[ours-position-rows]
    test_exports::test_timm_builds_its_models_again[distilled]
    test_given::test_wrapped_modules_work_as_what_they_wrap[compiled blocks]
    test_trace::TestTrace::test_compiled_blocks_run_uncompiled_under_hooks
    test_planted_model::test_the_seed_decides_everything_and_nothing_else_does
    test_planted_model::test_the_outliers_are_where_the_truth_says[hidden-0]
    test_planted_model::test_the_outliers_are_where_the_truth_says[last-block-0]
    test_planted_model::test_zeroing_the_neurons_gives_the_clean_twin_and_other_neurons_do_not[low-norm]
    test_norm_scale::test_tokens_without_any_norm_are_counted_and_their_ratio_stays_a_number
    test_unusual_pages::test_the_page_of_a_scan[DropsTokens]
    test_complexity_task::test_vit_b16_shows_the_increase_of_appendix_b
    test_complexity_task::test_the_closed_form_is_what_foreign_models_do[openclip:ViT-S-32-alt]
    test_complexity_task::test_the_closed_form_is_what_foreign_models_do[timm:deit_tiny_distilled_patch16_224]
    test_multicrop::test_changes_happen_as_often_as_said[jitter]
    test_multicrop::test_changes_happen_as_often_as_said[solarize]
    test_multicrop::test_changes_happen_as_often_as_said[grey]
    test_scan_resumed::test_another_edit_or_other_weights_of_the_same_name_begin_anew
    test_scan_resumed::test_a_scan_killed_at_any_moment_goes_on_and_says_the_same[saving-2]
    test_scan_resumed::test_a_spill_that_became_a_link_is_not_written_through[symlink]
    test_scan_resumed::test_a_full_disk_keeps_the_pass_and_says_so[tally]
    test_scan_resumed::test_ctrl_c_when_all_images_were_seen_keeps_them[readout]
    test_scan_resumed::test_damaged_sums_begin_anew[spill]
    test_scan_parity::test_statistics_of_a_bfloat16_forward_are_within_two_percent_of_fp32
    test_recipes::test_every_recipe_keeps_its_promises[dinov2 softmax-all knobs]
    test_recipes::test_every_recipe_keeps_its_promises[dinov2 shared head-all knobs]
    test_recipes::test_every_recipe_keeps_its_promises[dino-no registers]
    test_recipes::test_every_recipe_keeps_its_promises[clip-no registers]
    test_self_distill::test_two_processes_are_one[centre-fsdp]
    test_self_distill::test_two_processes_are_one[sinkhorn-fsdp]
    test_processes::test_a_model_of_another_library_trains_alike_on_two[ddp]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[fix]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[repairs]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[reproduce]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[maps]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[fix]
    test_nothing_is_lost::test_a_result_that_went_beside_has_its_page_and_figures[eval]
    test_nothing_is_lost::test_a_result_that_went_beside_has_its_page_and_figures[discover]
    test_nothing_is_lost::test_an_interrupted_result_does_not_take_the_place_of_a_complete_one[discover]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[open_clip-spread]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[torchvision-spread]
    test_terminal::test_help_ends_at_any_width[-3]
    test_terminal::test_help_ends_at_any_width[5]
    test_terminal::test_help_ends_at_any_width[100000000]
    test_extract::test_archives_give_what_their_files_give[tar]
    test_checkpoint_cut_short::test_killed_at_any_moment_a_whole_checkpoint_is_left[the same step again]
    test_maps_as_targets::test_it_learns_resumes_and_is_judged[toy-mask-0.45]
    test_curves::test_artifacts_written_into_a_model_are_found_at_the_step_they_were_written
    test_discover::test_a_model_whose_patches_are_all_alike_finds_no_box_and_says_so[maskcut]
    test_loader::test_memory_does_not_grow_with_the_number_of_images[tgz]
    test_page_browser::test_pointing_at_a_token_reads_its_norm_and_draws_what_it_attends_to[attention]
    test_train_dry::test_a_dry_run_says_what_a_run_needs_and_leaves_nothing[dinov2]
    test_train_dry::test_a_dry_run_says_what_a_run_needs_and_leaves_nothing[mae]
    test_draw_again::test_a_verb_goes_over_what_was_drawn_again
    test_features_resumed::test_processes_share_one_extraction[ranks1]
    test_auto::test_the_best_repair_for_a_kind_is_kept
    test_eval::test_a_scan_never_writes_over_the_result_of_a_task
    test_foreign_base::test_a_run_that_is_killed_and_resumed_ends_as_the_uninterrupted_one
    test_attention_parity::test_transformers[DeiTModel]
    test_recipes::test_every_recipe_keeps_its_promises[dinov2 sinkhorn-no registers]
    test_recipes::test_every_recipe_keeps_its_promises[supervised ce-no registers]
    test_draw_again::test_a_folder_is_drawn_as_it_was[discover]
    test_draw_again::test_a_folder_is_drawn_as_it_was[maps]
    test_draw_again::test_a_folder_is_drawn_as_it_was[repairs]
    test_page::test_importing_the_report_does_not_import_torch
    test_planted_model::test_truth_holds_at_another_size_and_with_registers[high-norm]
    test_distill::test_ctrl_c_leaves_the_model_as_it_was
    test_maps_verb::test_on_photographs_limit_and_names
    test_causal_study::test_the_most_attended_patch_stands_for_sinks_where_there_are_no_outliers
    test_nothing_is_lost::test_the_same_command_may_be_given_again[reproduce]
    test_draw_again::test_without_torch
    test_repairs_verb::test_an_interrupted_table_goes_on_from_its_rows
    test_border::test_it_is_trained_and_its_control_is_the_border_alone
    test_directions::test_the_artifact_of_a_planted_model_is_predicted
    test_repairs::test_a_repair_keeps_every_promise_at_another_size
    test_scan_parity::test_the_batch_size_does_not_matter
    test_eval::test_a_result_never_vanishes_under_another
    test_pictures::test_claims_hold_where_it_was_planted
    test_pictures::test_four_copies_of_one_register_are_not_taken_for_different_ones
    test_pictures::test_boxes_that_cannot_be_had_take_one_claim_alone
    test_pictures::test_nothing_holds_on_the_clean_twin
    test_pictures::test_a_job_of_each_model_serves_all_figures_and_they_are_drawn_again_without_one
    test_pictures::test_maps_are_those_of_the_verb
    test_pictures::test_the_outliers_of_a_map_are_the_planted_ones
    test_training_jobs::test_experiments_share_models_and_scans
    test_training_jobs::test_nothing_is_claimed_from_one_seed_and_the_record_says_how_it_was_trained
    test_training_jobs::test_a_stopped_training_goes_on_from_its_checkpoint_to_the_same_weights
    test_exports::test_onnx_gives_the_tokens_and_answers_of_every_repaired_model[timm-test-time]
    test_border::test_an_empty_border_takes_the_outliers_of_a_model_that_compares_patches
    test_prefix::test_where_attention_wants_an_outlier_only_both_halves_together_help
    test_test_time::test_the_neurons_found_are_the_planted_writers[low-norm]
    test_draw_again::test_a_folder_is_drawn_as_it_was[reproduce]
    test_edited_modules::test_an_edited_model_that_does_not_compile_runs_with_its_edits
    test_zoo_verb::test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one
    test_zoo_verb::test_two_processes_share_a_run_and_each_has_the_whole_board
    test_public_models::test_some_build_without_weights_and_have_the_registers_stated[hf:facebook/dinov2-base]
    test_nothing_is_lost::test_a_folder_whose_name_is_no_utf_8_takes_results_or_is_refused[zoo]
    test_nothing_is_lost::test_the_same_command_may_be_given_again[zoo]
    test_nothing_is_lost::test_a_file_of_the_user_survives_under_every_name_that_a_verb_writes[zoo]
    test_global_artifacts::test_registers_take_the_artifact[1]
    test_global_artifacts::test_registers_take_the_artifact[2]
    test_global_artifacts::test_other_patches_are_those_of_the_clean_twin[2]
    test_global_artifacts::test_outliers_forget_themselves_and_carry_the_mean[1]
    test_global_artifacts::test_outliers_forget_themselves_and_carry_the_mean[2]
    test_global_artifacts::test_without_erasers_they_remember[1]
    test_synthetic_scenes::test_a_task_reads_them[depth]
    test_synthetic_scenes::test_a_task_reads_them[tokens]
    test_synthetic_scenes::test_a_task_reads_them[position]
    test_synthetic_scenes::test_a_task_reads_them[linear]
    test_synthetic_scenes::test_a_verb_reads_them[fix]
    test_synthetic_scenes::test_a_verb_reads_them[repairs]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[timm dinov2 reg-near the peak]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[open_clip-near the peak]
    test_large_logits::test_every_promise_is_kept_with_logits_of_500_in_both_precisions[torchvision-near the peak]
    test_recipes::test_every_recipe_keeps_its_promises[mae-no registers]
    test_recipes::test_every_recipe_keeps_its_promises[regression-no registers]
    test_backbones::test_other_networks_are_not_taken_for_a_vit[naflexvit_base_patch16_gap]
    test_vit::test_published_weights_load_into_timms_named_models[deit3_small_patch16_224-options1]
    test_explore_forms::test_no_width_needs_sideways_scrolling[768]
    test_explore_forms::test_ticks_do_not_touch[reach1]
    test_explore_forms::test_ticks_do_not_touch[reach2]
    test_page_browser::test_no_width_needs_sideways_scrolling[390]
    test_page_browser::test_no_width_needs_sideways_scrolling[768]
    test_comparison_browser::test_no_width_needs_sideways_scrolling[390]
    test_curves_browser::test_no_width_needs_sideways_scrolling[390]
    test_curves_browser::test_no_width_needs_sideways_scrolling[768]
    test_unusual_pages::test_the_page_of_a_scan[TokenMixer]
    test_given::test_wrapped_modules_work_as_what_they_wrap[compiled in place]
    test_given::test_wrapped_modules_work_as_what_they_wrap[compiled data parallel]
    test_given::test_wrapped_modules_work_as_what_they_wrap[data parallel of compiled]
    test_figures::test_one_block_one_image[high-norm]
    test_opened_again::test_the_size_that_a_table_was_read_for_is_remembered[words1]
    test_complexity_task::test_the_closed_form_is_what_foreign_models_do[timm:vit_small_patch16_dinov3]
    test_draw_again::test_pictures_that_were_not_kept_are_named_and_stay[discover-pictures/sheets.npz]
    test_draw_again::test_what_was_copied_in_from_another_result_is_not_drawn[curves]
    test_draw_again::test_what_was_copied_in_from_another_result_is_not_drawn[discover]
    test_draw_again::test_a_folder_is_drawn_as_it_was[zoo]
    test_train::test_scan_looks_into_a_run
    test_draw_again::test_the_picture_of_complexity_is_drawn_from_the_record
    test_clip_norm::test_patches_by_lot_clip_nothing
    test_zoo_verb::test_ctrl_c_in_a_scan_ends_the_run_and_leaves_no_row_of_it
"""


def listed() -> list[str]:
    """The entries, each FILE::TEST or FILE::TEST[CASE], the file without its folder and suffix."""
    return [line.strip() for line in REPETITIONS.strip().splitlines()]


def key_of(nodeid: str) -> str:
    """Write pytest's name of a test as the entries are written."""
    path, _, rest = nodeid.partition("::")
    return f"{path.rpartition('/')[2].removesuffix('.py')}::{rest}"
